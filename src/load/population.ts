import Type from "typebox";
import { Check } from "typebox/value";
import { DigestHistory } from "./digest-history.ts";
import { drawLength } from "./distributions.ts";
import { json, LoadError, problemCode, type Answer, type Target } from "./http.ts";
import type { Model } from "./model.ts";
import { drawnAdapter, drawnHardPrompt, poisonedAdapter, type Upload } from "./prefix-content.ts";
import { fork } from "./random.ts";
import { ScenarioError, type Scenario } from "./scenario.ts";

/** Concurrent requests while setting up and cleaning up. */
const AT_ONCE = 32;

export interface LoadUser {
  readonly label: string;
  readonly group: string;
  readonly weight: number;
  readonly key: string | null;
}

/** A registered prefix; `content(v)` builds its version v. */
export interface LoadPrefix {
  readonly name: string;
  /** The id that requests use. */
  readonly id: string;
  readonly poisoned: boolean;
  readonly content: (version: number) => Upload;
  history: DigestHistory;
}

export interface Credentials {
  readonly adminKey: string | null;
  readonly userKey: string | null;
}

type Progress = (done: number, total: number) => void;

const PrefixAnswer = Type.Object({ digest: Type.String() });
const KeyAnswer = Type.Object({ key: Type.String() });

/**
 * Users and prefixes that the run creates on the server and removes. With an admin key, each user of the scenario is a
 * server user, and another one owns and shares the prefixes (a single user owns them itself). Without one, all requests
 * come from one user.
 */
export class Population {
  readonly users: LoadUser[] = [];
  readonly prefixes: LoadPrefix[] = [];
  readonly poisoned: LoadPrefix[] = [];
  readonly kind: "peft" | "hard";
  readonly #scenario: Scenario;
  readonly #target: Target;
  readonly #credentials: Credentials;
  readonly #model: Model;
  readonly #run: string;
  /** Whether users use prefixes shared by the owner instead of their own. */
  readonly #shares: boolean;
  readonly #owner: { readonly id: string; key: string } | null;
  /** Server users to remove at the end. */
  readonly #created: string[] = [];

  /** Creates nothing on the server yet. */
  constructor(scenario: Scenario, target: Target, credentials: Credentials, model: Model, run: string) {
    this.#scenario = scenario;
    this.#target = target;
    this.#credentials = credentials;
    this.#model = model;
    this.#run = `load-${run}`;
    this.#shares = credentials.adminKey !== null && scenario.groups.reduce((sum, { users = 1 }) => sum + users, 0) > 1;
    this.#owner = credentials.adminKey === null ? null : { id: `${this.#run}-owner`, key: "" };
    const { kind = "auto" } = scenario.prefixes;
    if (kind === "peft" && model.shape === null)
      throw new ScenarioError(
        "PEFT prefixes need the model's shape, which the server does not report: give --shape or --model-config",
      );
    this.kind = kind === "hard" || model.shape === null ? "hard" : "peft";
  }

  get ownerKey(): string | null {
    return this.#owner?.key ?? this.#credentials.userKey;
  }

  /** Whether the scenario's users are separate users on the server. */
  get separateUsers(): boolean {
    return this.#owner !== null;
  }

  /** Creates the users. Throws LoadError. */
  async createUsers(): Promise<void> {
    const planned = this.#scenario.groups.flatMap((group) =>
      Array.from({ length: group.users ?? 1 }, (_, index) => ({ group, label: `${group.name}-${index}` })),
    );
    if (this.#owner === null) {
      for (const { group, label } of planned)
        this.users.push({ label, group: group.name, weight: group.weight ?? 1, key: this.#credentials.userKey });
      return;
    }
    this.#owner.key = await this.createUser(this.#owner.id, this.#shares ? {} : settingsOf(planned[0]!.group));
    const keys = this.#shares
      ? await inParallel(planned, ({ group, label }) => this.createUser(`${this.#run}-${label}`, settingsOf(group)))
      : [this.#owner.key];
    for (const [index, { group, label }] of planned.entries())
      this.users.push({ label, group: group.name, weight: group.weight ?? 1, key: keys[index]! });
  }

  /** Creates a server user and returns its key. It is removed with the others if it still exists then. */
  async createUser(id: string, settings: object): Promise<string> {
    const admin = this.#credentials.adminKey;
    this.#created.push(id);
    accept(await this.#target.call("POST", "/admin/users", admin, json({ id, ...settings })), "creating a user");
    const { key } = read(
      KeyAnswer,
      accept(await this.#target.call("POST", `/admin/users/${id}/keys`, admin, json({})), "creating a key"),
    );
    return key;
  }

  /** Removes a user; the answer says whether that worked. */
  removeUser(id: string): Promise<Answer> {
    return this.#target.call("DELETE", `/admin/users/${id}`, this.#credentials.adminKey, undefined, 120_000);
  }

  userId(suffix: string): string {
    return `${this.#run}-${suffix}`;
  }

  /** Registers all prefixes. Throws LoadError. */
  async registerPrefixes(onProgress: Progress, signal: AbortSignal): Promise<void> {
    const { count, virtual_tokens } = this.#scenario.prefixes;
    const random = fork(this.#seed, "virtual tokens");
    const names = Array.from({ length: count }, (_, index) =>
      this.describe(`p${index}`, drawLength(virtual_tokens, random)),
    );
    const bad = Array.from({ length: this.#poisonedCount }, (_, index) => this.describe(`poisoned${index}`, 1, true));
    let done = 0;
    await inParallel([...names, ...bad], async (prefix) => {
      if (signal.aborted) throw new LoadError("interrupted before the load");
      if (!prefix.poisoned || !(await this.#isRefused(prefix)))
        prefix.history = new DigestHistory(await this.register(prefix, 0));
      onProgress(++done, count + bad.length);
    });
    this.prefixes.push(...names);
    this.poisoned.push(...bad);
  }

  /** A server that tries prefixes at registration refuses those that overflow. */
  async #isRefused(prefix: LoadPrefix): Promise<boolean> {
    const { status, text } = await this.put(prefix, 0);
    return status === 422 && problemCode(status, text) === "prefix_overflows";
  }

  /** Poisoned prefixes are PEFT files, so there are none without the model's shape. */
  get #poisonedCount(): number {
    return this.kind === "peft" ? (this.#scenario.prefixes.poisoned?.count ?? 0) : 0;
  }

  get #seed(): number {
    return this.#scenario.seed ?? 1;
  }

  /** Describes a prefix without registering it. */
  describe(suffix: string, virtualTokens: number, poisoned = false): LoadPrefix {
    const name = `${this.#run}-${suffix}`;
    const { shape, vocabulary } = this.#model;
    const content = (version: number): Upload => {
      if (this.kind === "hard" || shape === null)
        return drawnHardPrompt(virtualTokens, vocabulary, this.#seed, `${suffix} ${version}`);
      return poisoned
        ? poisonedAdapter(shape, virtualTokens)
        : drawnAdapter(shape, virtualTokens, this.#seed, `${suffix} ${version}`);
    };
    return {
      name,
      id: this.#owner === null || !this.#shares ? name : `${this.#owner.id}/${name}`,
      poisoned,
      content,
      history: new DigestHistory(null),
    };
  }

  /** Registers a version of a prefix, shares it and returns its digest. Throws LoadError. */
  async register(prefix: LoadPrefix, version: number): Promise<string> {
    const { digest } = read(PrefixAnswer, accept(await this.put(prefix, version), "registering a prefix"));
    await this.share(prefix);
    return digest;
  }

  put(prefix: LoadPrefix, version: number): Promise<Answer> {
    return this.#target.call("PUT", `/prefixes/${prefix.name}`, this.ownerKey, prefix.content(version));
  }

  /** Shares the prefix with everybody, unless its only user owns it. */
  async share(prefix: LoadPrefix): Promise<void> {
    if (!this.#shares) return;
    accept(
      await this.#target.call("PATCH", `/prefixes/${prefix.name}`, this.ownerKey, json({ visibility: "shared" })),
      "sharing a prefix",
    );
  }

  delete(prefix: LoadPrefix): Promise<Answer> {
    return this.#target.call("DELETE", `/prefixes/${prefix.name}`, this.ownerKey);
  }

  /** Removes everything the run created, whatever its state; returns what could not be removed. */
  async remove(extra: readonly LoadPrefix[], onProgress: Progress): Promise<string[]> {
    const left: string[] = [];
    if (this.#owner !== null) {
      await inParallel(this.#created, async (id) => void (await this.#gone(`user ${id}`, this.removeUser(id), left)));
      return left;
    }
    const all = [...this.#registered(), ...extra];
    let done = 0;
    await inParallel(all, async (prefix) => {
      await this.#gone(`prefix ${prefix.name}`, this.delete(prefix), left);
      onProgress(++done, all.length);
    });
    return left;
  }

  /** Prefixes that may be registered, even if registering was interrupted. */
  #registered(): LoadPrefix[] {
    if (this.prefixes.length > 0) return [...this.prefixes, ...this.poisoned];
    const { count } = this.#scenario.prefixes;
    return [
      ...Array.from({ length: count }, (_, index) => `p${index}`),
      ...Array.from({ length: this.#poisonedCount }, (_, index) => `poisoned${index}`),
    ].map((suffix) => this.describe(suffix, 1));
  }

  async #gone(what: string, answer: Promise<Answer>, left: string[]): Promise<void> {
    const status = await answer.then(
      (it) => it.status,
      () => 0,
    );
    if (status !== 200 && status !== 204 && status !== 404) left.push(what);
  }
}

function settingsOf({ weight, limits }: Scenario["groups"][number]): object {
  return { ...(weight === undefined ? {} : { weight }), ...(limits === undefined ? {} : { limits }) };
}

/** Returns the answer; throws LoadError if the server refused. */
export function accept(answer: Answer, what: string): Answer {
  if (answer.status >= 200 && answer.status < 300) return answer;
  throw new LoadError(`${what} was refused (${problemCode(answer.status, answer.text)}): ${answer.text.slice(0, 300)}`);
}

function read<T extends typeof PrefixAnswer | typeof KeyAnswer>(schema: T, { text }: Answer): Type.Static<T> {
  const body: unknown = JSON.parse(text);
  if (!Check(schema, body)) throw new LoadError(`the server did not answer as prefixd does: ${text.slice(0, 200)}`);
  return body;
}

/** Maps with bounded concurrency. Rejects with the first error, once the other calls under way have ended. */
export async function inParallel<T, R>(
  items: readonly T[],
  work: (item: T) => Promise<R>,
  atOnce = AT_ONCE,
): Promise<R[]> {
  const out = new Array<R>(items.length);
  let next = 0;
  let failed = false;
  const worker = async (): Promise<void> => {
    while (next < items.length && !failed) {
      const index = next++;
      try {
        out[index] = await work(items[index]!);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const outcomes = await Promise.allSettled(Array.from({ length: Math.min(atOnce, items.length) }, worker));
  const bad = outcomes.find((outcome) => outcome.status === "rejected");
  if (bad) throw bad.reason;
  return out;
}
