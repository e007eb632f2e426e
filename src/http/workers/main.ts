/** Entry point of an HTTP worker. It ends with the engine's process, and with it all its connections. */
import { Socket } from "node:net";
import { WorkerSide } from "./child.ts";
import { CHANNEL_FD, type Handover } from "./protocol.ts";

// A terminal and a service manager signal the whole group; the engine's process says when it is over.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {});

const over = (): never => process.exit();
const channel = new Socket({ fd: CHANNEL_FD, readable: true, writable: true });
channel.on("error", over).on("close", over);
process.once("disconnect", over);

const side = new WorkerSide(channel);
process.on("message", ({ connection }: Handover, socket?: Socket) => side.accept(connection, socket));
process.send!("ready");
