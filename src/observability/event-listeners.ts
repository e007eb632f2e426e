import type { EventEmitter } from "node:events";

/**
 * Number of listeners on long-lived emitters, over all events. A listener added per request and never removed shows up
 * here.
 */
export interface ListenerCounts {
  readonly process: number;
  readonly server: number;
  /** The most on any open connection: connections serve many requests. */
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
