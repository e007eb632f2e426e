import type { EventEmitter } from "node:events";
import type { Server } from "node:http";
import type { Socket } from "node:net";

/** Listeners of every event of what lives long. One that is added for each request and never taken off shows here. */
export interface ListenerCounts {
  readonly process: number;
  readonly server: number;
  /** Most that any open connection has: they are kept for many requests. */
  readonly connection: number;
}

/** Follows a server's connections from now on; the function that it answers counts. */
export function watchListeners(server: Server): () => ListenerCounts {
  const open = new Set<Socket>();
  server.on("connection", (socket) => {
    open.add(socket);
    socket.once("close", () => open.delete(socket));
  });
  return () => ({ process: listenersOf(process), server: listenersOf(server), connection: Math.max(0, ...[...open].map(listenersOf)) });
}

function listenersOf(emitter: EventEmitter): number {
  return emitter.eventNames().reduce((sum, name) => sum + emitter.listenerCount(name), 0);
}
