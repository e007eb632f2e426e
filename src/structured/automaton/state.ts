import type { TokenMask } from "./token-mask.ts";

/** Return states of the calls that a text is inside of, innermost first. Equal stacks are one object. */
export interface Stack {
  readonly id: number;
  readonly back: number;
  readonly up: Stack | null;
  readonly depth: number;
}

/** One way to have read the text so far: a state of the automaton that reads bytes, and where it returns to. */
export interface Configuration {
  readonly state: number;
  readonly stack: Stack | null;
  /** Tells it from others. */
  readonly key: number;
}

/** The making of a mask, which can stop and go on. */
export interface Walk {
  /** null until it has ended. */
  readonly mask: TokenMask | null;
  /** Goes on for about `units` of work, and returns what it did. */
  run(units: number): number;
}

/**
 * What may follow a text: all ways to have read it, as an immutable set that is made once. Sequences that have come to
 * the same place share it, so forks cost nothing, and for a regular language these are the states of its deterministic
 * automaton, built as they are needed.
 */
export class State {
  readonly configurations: readonly Configuration[];
  /** The text is complete. */
  readonly complete: boolean;
  /** So many plain characters of a JSON string may follow; -1: none for sure. */
  readonly room: number;
  /** Plain characters may follow only as `room` says. */
  readonly onlyRoom: boolean;
  /** By byte class; null: no such byte may follow. */
  readonly next: (State | null | undefined)[];
  mask: TokenMask | null = null;
  walk: Walk | null = null;

  constructor(
    configurations: readonly Configuration[],
    complete: boolean,
    room: number,
    onlyRoom: boolean,
    classes: number,
  ) {
    this.configurations = configurations;
    this.complete = complete;
    this.room = room;
    this.onlyRoom = onlyRoom;
    this.next = new Array<undefined>(classes);
  }

  /** Nothing may follow. Then the text is complete, since no step leads into a dead end. */
  get final(): boolean {
    return this.configurations.length === 0;
  }
}
