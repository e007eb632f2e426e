/** Stands for a driver that never answers, and does not let go of its process. */
process.on("SIGTERM", () => {});
setInterval(() => {}, 1000);
