import { useEffect, useState } from "preact/hooks";
import type { ApiError } from "../api.ts";
import { count, milliseconds, NONE } from "../format.ts";
import { Answer } from "./answer.tsx";
import type { Column, Comparison } from "./comparison.ts";
import type { Run } from "./run.ts";

interface ColumnProps {
  readonly column: Column;
  readonly comparison: Comparison;
  readonly onRun: () => void;
}

export function ColumnView({ column, comparison, onRun }: ColumnProps) {
  const { place, prefix, run } = column;
  const prefixes = comparison.prefixes ?? [];
  const shown = prefixes.find(({ id }) => id === prefix);
  return (
    <article class={`column c${place}`} aria-label={prefix ?? "base"}>
      <header>
        {prefix === null ? (
          <h2>base</h2>
        ) : (
          <select
            aria-label={`Prefix of column ${place + 1}`}
            value={prefix}
            onChange={({ currentTarget }) => comparison.setPrefix(place, currentTarget.value)}
          >
            {shown === undefined && <option value={prefix}>{prefix}</option>}
            {prefixes.map(({ id }) => (
              <option key={id} value={id}>
                {id}
              </option>
            ))}
          </select>
        )}
        {prefix === null ? (
          <span class="tag">no prefix</span>
        ) : (
          <button
            type="button"
            class="btn quiet icon"
            aria-label={`Remove ${prefix}`}
            onClick={() => comparison.remove(place)}
          >
            ×
          </button>
        )}
        <p class="sub small mono cut">
          {prefix === null
            ? "frozen, nothing in front"
            : shown === undefined
              ? "not in your list"
              : `${shown.digest.slice(0, 8)} · ${shown.virtual_tokens} virtual tokens`}
        </p>
      </header>
      {run?.error ? (
        <Failure key={run.id} error={run.error} onRun={onRun} />
      ) : run === null ? (
        <p class="answer soft">Not run yet.</p>
      ) : (
        <Answer key={run.id} run={run} label={prefix ?? "base"} moment={comparison.replay.moment} />
      )}
      <Times run={run} />
    </article>
  );
}

function Times({ run }: { run: Run | null }) {
  const timings = run?.timings ?? null;
  const rate = timings?.tokens_per_second ?? null;
  const cells: [string, string][] = [
    ["queue", milliseconds(timings?.queue_ms ?? null)],
    ["prefill", milliseconds(timings?.prefill_ms ?? null)],
    ["decode", milliseconds(timings?.decode_ms ?? null)],
    ["tokens/s", rate === null ? NONE : count(rate)],
  ];
  return (
    <dl class="times">
      {cells.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** Where waiting helps, counts down before it offers to try again: nothing is repeated by itself. */
function Failure({ error, onRun }: { error: ApiError; onRun: () => void }) {
  const [left, setLeft] = useState(error.retryAfter ?? 0);
  useEffect(() => {
    if (left <= 0) return;
    const timer = setTimeout(() => setLeft(left - 1), 1000);
    return () => clearTimeout(timer);
  }, [left]);
  return (
    <div class="answer failure" role="alert">
      <p>
        <strong>{error.title}.</strong> {error.message}
      </p>
      <p class="small soft">
        <code>{error.code || "no answer"}</code> The other columns went on.
      </p>
      {(error.retryAfter !== null || error.status === 0) &&
        (left > 0 ? (
          <p class="small soft">The server asks for {left} s.</p>
        ) : (
          <button type="button" class="btn tiny" onClick={onRun}>
            Try again
          </button>
        ))}
    </div>
  );
}
