import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { useAction } from "../answers.ts";
import { asApiError, type ApiError, type Prefix } from "../api.ts";
import type { Session } from "../session.ts";
import { Field, Problem, Segments } from "../ui.tsx";
import { Examples, fileLabel } from "./examples.tsx";
import type { Jobs } from "./jobs.ts";
import { DEFAULTS, EMPTY_ORDER, orderBody, proposedName, withKind, type Order } from "./order.ts";
import type { Job, TrainingFile } from "./progress.ts";

interface NewJobProps {
  readonly session: Session;
  readonly jobs: Jobs;
  /** To begin with; another object fills the form anew. */
  readonly from: { readonly order: Order; readonly file: string } | null;
  readonly onCreated: (job: Job) => void;
}

export function NewJob({ session, jobs, from, onCreated }: NewJobProps) {
  const { api, model } = session;
  const [order, setOrder] = useState(EMPTY_ORDER);
  const [file, setFile] = useState("");
  const [own, setOwn] = useState<readonly Prefix[]>([]);
  const [failed, setFailed] = useState<ApiError | null>(null);
  const creation = useAction();
  const settings = useRef<HTMLDetailsElement>(null);
  const [, setRead] = useState(0);
  const loadFiles = async (): Promise<void> => {
    await jobs.loadFiles();
    setRead((times) => times + 1);
  };
  useEffect(() => {
    Promise.all([loadFiles(), api.list<Prefix>("/prefixes?owner=me", "prefixes").then(setOwn)]).catch(
      (error: unknown) => setFailed(asApiError(error)),
    );
  }, [api, jobs]);
  useLayoutEffect(() => {
    if (from === null) return;
    setOrder(from.order);
    setFile(jobs.files.some(({ id }) => id === from.file) ? from.file : "");
    settings.current!.open = true;
  }, [from]);
  const set = (change: Partial<Order>): void => setOrder((order) => ({ ...order, ...change }));
  /** An upload ends when the form may have changed. */
  const choose = ({ id, filename }: TrainingFile): void => {
    setFile(id);
    setOrder((order) => (order.name === "" ? { ...order, name: proposedName(filename) } : order));
  };
  const drop = (id: string): void => setFile((file) => (file === id ? "" : file));
  const start = (event: Event): void => {
    event.preventDefault();
    creation.act(async () => {
      const job = await jobs.create(orderBody(order, model.model, file));
      // Empty for the next one, but for what was begun of that.
      setOrder((now) => (now.name === order.name ? { ...now, name: "" } : now));
      drop(file);
      onCreated(job);
    });
  };
  const number = (field: keyof Order, label: string, step = "1", hint?: string) => (
    <Field
      label={label}
      type="number"
      step={step}
      min="0"
      value={order[field]}
      onValue={(value) => set({ [field]: value })}
      {...(hint === undefined ? {} : { hint })}
    />
  );
  const { tokens, rate } = DEFAULTS[order.kind];
  const searches = order.kind === "triggers";
  const lacks =
    file === "" ? "Choose a file of examples first." : order.name === "" ? "The prefix needs a name." : null;
  return (
    <section class="panel" aria-labelledby="new-job">
      <header>
        <h2 id="new-job">New job</h2>
      </header>
      <form class="panel-body stack" aria-labelledby="new-job" onSubmit={start}>
        <Examples
          session={session}
          files={jobs.files}
          chosen={file}
          onChoose={choose}
          onDrop={drop}
          onChanged={loadFiles}
        />
        <Field
          label="Name of the prefix"
          value={order.name}
          onValue={(name) => set({ name })}
          mono
          hint={
            own.some(({ id }) => id === order.name)
              ? "Exists: it is replaced when the job has succeeded."
              : "Letters, digits, dot, underscore and hyphen; the first a letter or a digit."
          }
        />
        <details ref={settings}>
          <summary>
            Settings <span class="soft small">{summary(order)}</span>
          </summary>
          <div class="stack">
            <Segments
              label="What is trained"
              options={{ prefix: "Prefix", network: "Through a network", prompt: "Prompt", triggers: "Triggers" }}
              value={order.kind}
              onValue={(kind) => setOrder((order) => withKind(order, kind))}
            />
            <p class="small faint">{KINDS[order.kind]}</p>
            <div class="two">
              {number(
                "steps",
                "Steps",
                "1",
                searches ? `Empty: ${DEFAULTS.triggers.steps}.` : "Empty: two passes, but 1,000 to 5,000 steps.",
              )}
              {searches
                ? number("candidates", "Candidates", "1", "Tokens that a step tries at one place.")
                : number("rate", "Learning rate", "any", `The default is ${rate}.`)}
              {number("batch", "Rows a step")}
              {number("tokens", searches ? "Tokens" : "Virtual tokens", "1", `The default is ${tokens}.`)}
            </div>
            <Field
              label={searches ? "Begin with the tokens of this text" : "Begin as the model reads this text"}
              value={order.initText}
              onValue={(initText) => set({ initText })}
              mono
              placeholder={searches ? "“the”, repeated" : order.kind === "network" ? "random weights" : "random tokens"}
            />
            <div class="field">
              <label for="held-out">Held out, to score it</label>
              <select
                id="held-out"
                value={order.held}
                onChange={({ currentTarget }) => set({ held: currentTarget.value })}
              >
                <option value="">5 % of the lines, drawn; none of fewer than 200</option>
                {jobs.files.map((one) => (
                  <option key={one.id} value={one.id}>
                    {fileLabel(one)}
                  </option>
                ))}
              </select>
            </div>
          </div>
        </details>
        {failed !== null && <Problem error={failed} />}
        {creation.failed !== null && <Problem what="No job was started." error={creation.failed} />}
        <div class="row">
          <p class="small faint grow">
            {lacks ?? "Serving goes first: while requests are answered, training takes a small share of the time."}
          </p>
          <button type="submit" class="btn main" disabled={creation.busy || lacks !== null}>
            Start
          </button>
        </div>
      </form>
    </section>
  );
}

/** What the settings are, while they are folded. */
function summary({ kind, steps, rate, tokens, candidates }: Order): string {
  if (kind === "triggers") return `${steps || DEFAULTS[kind].steps} steps, ${candidates} candidates, ${tokens} tokens`;
  return `${steps === "" ? "steps by the number of lines" : `${steps} steps`}, rate ${rate}, ${tokens} virtual tokens`;
}

const KINDS: Readonly<Record<Order["kind"], string>> = {
  prefix: "Keys and values of every layer, trained as they are.",
  network: "Keys and values of every layer, trained through the paper's network, which is dropped at the end. Slower.",
  prompt: "Embeddings in front of the first layer only: fewer values, less capacity.",
  triggers: "Nothing is trained: tokens are searched for (AutoPrompt), as text that works in any server. Much weaker.",
};
