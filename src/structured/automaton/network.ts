import { tooComplex } from "../limits.ts";
import type { CodePoints } from "./code-points.ts";

/** Edges, jumps and calls that a state has on average at most: compiling takes as long as there are of these. */
const LINKS_PER_STATE = 16;

/** A part of a network that others call: it begins at `start` and has been read where `end` is reached. */
export interface Rule {
  readonly id: number;
  readonly start: number;
  readonly end: number;
}

/**
 * A recursive transition network over bytes: a non-deterministic automaton whose states may also call a rule and go on
 * where it ends. This is the drawing; `Automaton` is the finished form.
 */
export class Network {
  /** By state: `lo, hi, target` for each edge, which reads a byte in [lo, hi]. */
  readonly edges: number[][] = [];
  /** By state: targets that need no byte. */
  readonly jumps: number[][] = [];
  /** By state: `rule, return state` for each call. */
  readonly calls: number[][] = [];
  readonly rules: Rule[] = [];
  /** By state: how many plain characters of a JSON string may be read from it, each by a call of `characterRule`. */
  readonly room = new Map<number, number>();
  /** Reads one character of a JSON string. */
  characterRule: Rule | null = null;
  /** Rules that read one character of a set, so that a set which is repeated is looked up by its name, which can be long, once only. */
  readonly setRules = new Map<CodePoints, Rule>();
  readonly #shared = new Map<string, Rule>();
  readonly #maxStates: number;
  #links = 0;

  constructor(maxStates: number) {
    this.#maxStates = maxStates;
  }

  /** @throws PrefixdError constraint_too_complex */
  state(): number {
    if (this.edges.length >= this.#maxStates) throw tooComplex(`It needs more than ${this.#maxStates} states.`);
    this.jumps.push([]);
    this.calls.push([]);
    return this.edges.push([]) - 1;
  }

  /** A rule whose inside is drawn later, so that it may call itself. */
  rule(): Rule {
    const rule = { id: this.rules.length, start: this.state(), end: this.state() };
    this.rules.push(rule);
    return rule;
  }

  /** The rule of this name; drawn by the first one who asks. */
  shared(name: string, draw: (from: number, to: number) => void): Rule {
    let rule = this.#shared.get(name);
    if (rule === undefined) {
      rule = this.rule();
      this.#shared.set(name, rule);
      draw(rule.start, rule.end);
    }
    return rule;
  }

  range(from: number, lo: number, hi: number, to: number): void {
    this.#link();
    this.edges[from]!.push(lo, hi, to);
  }

  jump(from: number, to: number): void {
    this.#link();
    this.jumps[from]!.push(to);
  }

  call(from: number, rule: Rule, to: number): void {
    this.#link();
    this.calls[from]!.push(rule.id, to);
  }

  #link(): void {
    if (++this.#links > LINKS_PER_STATE * this.#maxStates)
      throw tooComplex(`It needs more than ${LINKS_PER_STATE * this.#maxStates} steps between states.`);
  }

  /** Reads exactly this text, as UTF-8. */
  text(from: number, text: string, to: number): void {
    const bytes = Buffer.from(text);
    let at = from;
    for (const [index, byte] of bytes.entries()) {
      const next = index === bytes.length - 1 ? to : this.state();
      this.range(at, byte, byte, next);
      at = next;
    }
    if (bytes.length === 0) this.jump(from, to);
  }

  /** The same, into a new state. */
  after(from: number, text: string): number {
    const to = this.state();
    this.text(from, text, to);
    return to;
  }

  /** Reads one of these texts. Common beginnings and common ends are drawn once (a minimal acyclic automaton). */
  oneOf(from: number, texts: readonly string[], to: number): void {
    // One character per byte.
    const sorted = [...new Set(texts)].map((text) => Buffer.from(text).toString("latin1")).sort();
    const known = new Map<string, number>();
    const state = (name: string, draw: (state: number) => void): number => {
      let one = known.get(name);
      if (one === undefined) {
        one = this.state();
        known.set(name, one);
        draw(one);
      }
      return one;
    };
    /** Where bytes `[at, end)` of a text are read, and then what is read at `next`. */
    const chain = (text: string, at: number, end: number, next: number): number => {
      for (let index = end - 1; index >= at; index--) {
        const [byte, target] = [text.charCodeAt(index), next];
        next = state(`${byte}>${target}`, (one) => this.range(one, byte, byte, target));
      }
      return next;
    };
    /** Where what follows the first `begun` bytes of texts `[first, end)` is read, which have these in common. */
    const branch = (first: number, end: number, begun: number): number => {
      const [text, last] = [sorted[first]!, sorted[end - 1]!];
      if (end - first === 1) return chain(text, begun, text.length, to);
      let at = begun;
      // The texts between the first and the last have as much in common.
      while (at < text.length && text[at] === last[at]) at++;
      const ends = text.length === at;
      const edges: [byte: number, target: number][] = [];
      for (let begin = first + Number(ends), index = begin; begin < end; begin = index) {
        const byte = sorted[begin]!.charCodeAt(at);
        while (index < end && sorted[index]!.charCodeAt(at) === byte) index++;
        edges.push([byte, branch(begin, index, at + 1)]);
      }
      const fork = state(`${edges.map((edge) => edge.join(">")).join()}${ends ? "!" : ""}`, (one) => {
        for (const [byte, target] of edges) this.range(one, byte, byte, target);
        if (ends) this.jump(one, to);
      });
      return chain(text, begun, at, fork);
    };
    if (sorted.length > 0) this.jump(from, branch(0, sorted.length, 0));
  }
}
