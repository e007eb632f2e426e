import { useEffect, useLayoutEffect, useState } from "preact/hooks";
import { asApiError, type ApiError } from "../api.ts";
import { plural } from "../format.ts";
import type { PageProps } from "../page-props.ts";
import { Note, Problem } from "../ui.tsx";
import { ColumnView } from "./column.tsx";
import { EXAMPLES, MAX_COLUMNS, type Comparison } from "./comparison.ts";
import { CodeDialog } from "./code-dialog.tsx";
import { Lanes } from "./lanes.tsx";
import { summary } from "./settings.ts";
import { SettingsDialog } from "./settings-dialog.tsx";

export function ComparePage({ comparison, session }: PageProps) {
  useChanges(comparison);
  const [failed, setFailed] = useState<ApiError | null>(null);
  const [unsent, setUnsent] = useState<string | null>(null);
  const [dialog, setDialog] = useState<"settings" | "code" | null>(null);
  useEffect(() => {
    comparison.load().catch((error: unknown) => setFailed(asApiError(error)));
  }, [comparison]);
  const { columns, running } = comparison;
  const run = (place?: number): void => {
    setUnsent(null);
    try {
      comparison.run(place);
    } catch (error) {
      setUnsent(`The JSON schema in the settings is not JSON: ${(error as Error).message}`);
    }
  };
  /** By what runs now, which may not be drawn yet. */
  const toggle = (): void => (comparison.running ? comparison.stop() : run());
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || document.querySelector("dialog[open]")) return;
      event.preventDefault();
      if (!event.repeat) toggle();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  });
  const slots = session.model.limits.max_batch;
  return (
    <>
      <div class="head">
        <h1>One prompt, several prefixes, one batch</h1>
        <p>
          One frozen GPT-2 answers every column at the same time. Only the small trained prefix in front of the prompt
          differs.
        </p>
      </div>
      {failed !== null && <Problem error={failed} />}
      <form class="ask" aria-label="Prompt" onSubmit={(event) => event.preventDefault()}>
        <label class="sr" for="prompt">
          Prompt
        </label>
        <textarea
          id="prompt"
          class="mono"
          rows={2}
          spellcheck={false}
          value={comparison.prompt}
          onInput={({ currentTarget }) => comparison.setPrompt(currentTarget.value)}
        />
        <div class="row">
          <select
            aria-label="Example prompts"
            class="examples"
            onChange={({ currentTarget }) => {
              const example = EXAMPLES[Number(currentTarget.value)];
              if (example !== undefined) comparison.useExample(example);
            }}
          >
            {EXAMPLES.map(({ name }, i) => (
              <option key={name} value={i}>
                Example: {name}
              </option>
            ))}
          </select>
          <button type="button" class="btn" aria-haspopup="dialog" onClick={() => setDialog("settings")}>
            Settings
          </button>
          <span class="small soft opt">{summary(comparison.settings)}</span>
          <button type="button" class="btn end" aria-haspopup="dialog" onClick={() => setDialog("code")}>
            Copy as code
          </button>
          <button
            type="button"
            class="btn main run"
            aria-keyshortcuts="Control+Enter Meta+Enter"
            disabled={columns.length === 0}
            onClick={toggle}
          >
            {running ? "Stop" : "Run"} <kbd>Ctrl ↵</kbd>
          </button>
        </div>
      </form>
      {unsent !== null && <Note tone="bad">{unsent}</Note>}
      <Slots comparison={comparison} slots={slots} />
      <div class="columns">
        {columns.map((column) => (
          <ColumnView key={column.place} column={column} comparison={comparison} onRun={() => run(column.place)} />
        ))}
        <AddColumn comparison={comparison} />
      </div>
      {comparison.prefixes?.length === 0 && (
        <Note>
          <p>
            <strong>No prefixes yet.</strong> <a href="#prefixes">Upload one</a>, and it answers beside the base.
          </p>
        </Note>
      )}
      <Legend />
      <Lanes comparison={comparison} />
      <p class="sr" role="status">
        {comparison.ended &&
          columns.map(({ prefix, run }) => `${prefix ?? "base"}: ${run?.text ?? "not run"}`).join(". ")}
      </p>
      {dialog === "settings" && <SettingsDialog comparison={comparison} onClose={() => setDialog(null)} />}
      {dialog === "code" && <CodeDialog comparison={comparison} onClose={() => setDialog(null)} />}
    </>
  );
}

/** Renders anew when the comparison has changed, at most once a frame. */
function useChanges(comparison: Comparison): void {
  const [, setVersion] = useState(0);
  useLayoutEffect(() => comparison.listen(() => setVersion((version) => version + 1)), [comparison]);
}

/** The rows of the batch, one's own in their columns' colours. */
function Slots({ comparison: { columns, replay }, slots }: { comparison: Comparison; slots: number }) {
  const runs = columns.flatMap(({ run }) => run ?? []);
  const of = (...states: string[]): number => runs.filter((run) => states.includes(run.stateAt(replay.moment))).length;
  const said =
    runs.length === 0
      ? `your ${plural(columns.length, "row")} will run here, beside other users'`
      : [
          [of("waiting"), "waiting"],
          [of("streaming"), "running"],
          [of("ended"), "ended"],
          [of("stopped"), "stopped"],
          [of("failed"), "refused"],
        ]
          .filter(([count]) => Number(count) > 0)
          .map((part) => part.join(" "))
          .join(", ");
  return (
    <section class="batch" aria-labelledby="batch-title">
      <p class="small">
        <strong id="batch-title">The running batch</strong> <span class="soft">{said}</span>
      </p>
      <div class="slots" aria-hidden="true">
        {Array.from({ length: Math.min(slots, 64) }, (_, slot) => {
          const column = columns[slot];
          return (
            <i
              key={slot}
              class={column === undefined ? "" : `c${column.place} ${column.run?.stateAt(replay.moment) ?? "idle"}`}
            />
          );
        })}
      </div>
    </section>
  );
}

function AddColumn({ comparison }: { comparison: Comparison }) {
  const { columns, prefixes } = comparison;
  const left = (prefixes ?? []).filter(({ id }) => columns.every(({ prefix }) => prefix !== id));
  if (left.length === 0 || columns.length >= MAX_COLUMNS) return null;
  return (
    <div class="column add">
      <label class="small soft" for="add-column">
        Add a prefix
      </label>
      <select
        id="add-column"
        value=""
        onChange={({ currentTarget }) => {
          if (currentTarget.value !== "") comparison.add(currentTarget.value);
        }}
      >
        <option value="">Choose…</option>
        {left.map(({ id }) => (
          <option key={id} value={id}>
            {id}
          </option>
        ))}
      </select>
    </div>
  );
}

function Legend() {
  return (
    <p class="legend">
      <span>How likely the model found each token:</span>
      <span>
        <b /> 90 % or more
      </span>
      <span>
        <b class="p50" /> 50 to 90 %
      </span>
      <span>
        <b class="p20" /> 20 to 50 %
      </span>
      <span>
        <b class="p0" /> under 20 %
      </span>
      <span class="end opt">Hover a token, or Tab to a column and use ← →, for what else it might have been</span>
    </p>
  );
}
