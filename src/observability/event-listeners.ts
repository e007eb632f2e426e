import type { EventEmitter } from "node:events";

/** Listeners of every event of what lives long. One that is added for each request and never taken off shows here. */
export interface ListenerCounts {
  readonly process: number;
  readonly server: number;
  /** Most that any open connection has: they are kept for many requests. */
  readonly connection: number;
}

export function countListeners(server: EventEmitter, connections: Iterable<EventEmitter>): ListenerCounts {
  return {
    process: listenersOf(process),
    server: listenersOf(server),
    connection: Math.max(0, ...Array.from(connections, listenersOf)),
  };
}

function listenersOf(emitter: EventEmitter): number {
  return emitter.eventNames().reduce((sum, name) => sum + emitter.listenerCount(name), 0);
}
