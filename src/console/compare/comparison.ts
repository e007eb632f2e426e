/** One prompt under several prefixes: what the page shows, kept while other pages are open. */
import { Turns } from "../answers.ts";
import type { Prefix } from "../api.ts";
import type { Session } from "../session.ts";
import { Replay } from "./replay.ts";
import { Run } from "./run.ts";
import { DEFAULTS, requestBody, type Settings } from "./settings.ts";

export const MAX_COLUMNS = 5;

export interface Column {
  /** 0: the base; decides its colour, which it keeps. */
  readonly place: number;
  readonly prefix: string | null;
  readonly run: Run | null;
}

export interface Example {
  readonly name: string;
  readonly prompt: string;
  /** Names of the demo's prefixes that it is for. */
  readonly prefixes: readonly string[];
}

export const EXAMPLES: readonly Example[] = [
  {
    name: "a flight and a date",
    prompt: "i want to book a flight to london on August 14th, 2024\n=>",
    prefixes: ["datenorm", "intent", "truecase", "datelong"],
  },
  {
    name: "a restaurant",
    prompt: "name : The Mill | Type : restaurant | food : Italian | price : cheap | area : riverside\n=>",
    prefixes: ["e2e", "sgd_nlg", "truecase", "intent"],
  },
  {
    name: "the weather",
    prompt: "service : weather | offer temperature : 72 | offer precipitation : 10\n=>",
    prefixes: ["sgd_nlg", "e2e", "truecase", "intent"],
  },
];

export class Comparison {
  readonly session: Session;
  prompt = EXAMPLES[0]!.prompt;
  settings: Settings = DEFAULTS;
  columns: readonly Column[] = [];
  /** null: not asked for yet. */
  prefixes: readonly Prefix[] | null = null;
  readonly replay = new Replay(() => this.#changed());
  #example = EXAMPLES[0]!;
  readonly #loads = new Turns();
  #listener: () => void = () => {};
  #drawing = false;

  constructor(session: Session) {
    this.session = session;
  }

  get running(): boolean {
    return this.columns.some(({ run }) => run !== null && !run.over);
  }

  get ended(): boolean {
    return !this.running && this.columns.some(({ run }) => run !== null);
  }

  /** Milliseconds until the last token of all came. */
  get length(): number {
    return Math.max(0, ...this.columns.map(({ run }) => run?.tokens.at(-1)?.at ?? 0));
  }

  /** Called at most once a frame, however much changes. */
  listen(listener: () => void): () => void {
    this.#listener = listener;
    return () => (this.#listener = () => {});
  }

  /** Reads the list of prefixes anew; the first time, chooses columns, and runs if no key is needed. */
  async load(): Promise<void> {
    const isNewest = this.#loads.begin();
    const prefixes = await this.session.api.list<Prefix>("/prefixes", "prefixes");
    if (!isNewest()) return;
    const first = this.prefixes === null;
    this.prefixes = prefixes;
    if (first && this.columns.every(({ prefix }) => prefix === null)) {
      this.#fill();
      // What is being typed by now is not to be sent yet.
      const untouched = this.prompt === this.#example.prompt;
      if (!this.session.api.keyed && untouched && this.columns.length > 1) this.run();
    }
    this.#changed();
  }

  useExample(example: Example): void {
    this.#example = example;
    this.prompt = example.prompt;
    this.#fill();
    this.#changed();
  }

  /** Columns for those of the example's prefixes that there are, and others up to four in all. */
  #fill(): void {
    const ids = (this.prefixes ?? []).map(({ id }) => id);
    const named = this.#example.prefixes.flatMap(
      (name) => ids.find((id) => id === name || id.endsWith(`/${name}`)) ?? [],
    );
    const chosen = [...new Set([...named, ...ids])].slice(0, MAX_COLUMNS - 1);
    this.stop();
    this.columns = [...this.#base(), ...chosen.map((prefix, i) => ({ place: i + 1, prefix, run: null }))];
  }

  /** Puts a prefix beside the others; with another prompt than theirs, beside the base alone. */
  show(prefix: string, prompt: string | null = null): void {
    if (this.columns.length === 0 || (prompt !== null && prompt !== this.prompt)) {
      this.stop();
      this.columns = this.#base();
      this.prompt = prompt ?? this.prompt;
    }
    if (this.columns.every((column) => column.prefix !== prefix)) {
      if (this.#freePlace() === undefined) this.remove(this.columns.at(-1)!.place);
      this.add(prefix);
    }
    this.#changed();
  }

  setPrompt(prompt: string): void {
    this.prompt = prompt;
    this.#changed();
  }

  /** Several changes may come before the page draws any. */
  changeSettings(change: Partial<Settings>): void {
    this.settings = { ...this.settings, ...change };
    this.#changed();
  }

  setPrefix(place: number, prefix: string): void {
    this.columns = this.columns.map((column) => {
      if (column.place !== place) return column;
      column.run?.stop();
      return { ...column, prefix, run: null };
    });
    this.#changed();
  }

  add(prefix: string): void {
    const free = this.#freePlace();
    if (free === undefined) return;
    this.columns = [...this.columns, { place: free, prefix, run: null }].sort((a, b) => a.place - b.place);
    this.#changed();
  }

  remove(place: number): void {
    this.columns.find((column) => column.place === place)?.run?.stop();
    this.columns = this.columns.filter((column) => column.place !== place);
    this.#changed();
  }

  /** All columns leave together, or one alone; each fails by itself. What they still ask ends. Throws as `requestBody`. */
  run(place?: number): void {
    const asked = this.columns.filter((column) => place === undefined || column.place === place);
    const bodies = asked.map(({ prefix }) => requestBody(this.prompt, prefix, this.settings));
    // For those who want little motion an answer appears whole.
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.replay.show(null);
    const runs = asked.map(({ prefix }) => new Run(prefix, ({ over }) => (!calm || over) && this.#changed()));
    for (const { run } of asked) run?.stop();
    this.columns = this.columns.map((column) => {
      const at = asked.indexOf(column);
      return at < 0 ? column : { ...column, run: runs[at]! };
    });
    runs.forEach((run, i) => void run.start(this.session.api, bodies[i]!));
    this.#changed();
  }

  stop(): void {
    for (const { run } of this.columns) run?.stop();
  }

  #freePlace(): number | undefined {
    return [1, 2, 3, 4].find((place) => this.columns.every((column) => column.place !== place));
  }

  /** Its column, where the server answers without a prefix. */
  #base(): Column[] {
    return this.session.model.base_model ? [{ place: 0, prefix: null, run: null }] : [];
  }

  #changed(): void {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#listener();
    });
  }
}
