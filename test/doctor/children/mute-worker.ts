/** Stands for an HTTP worker to which no connection can be passed. */
process.once("disconnect", () => process.exit());
process.on("message", () => {});
process.send!("ready");
