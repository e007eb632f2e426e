import { age, plural } from "../format.ts";
import { Meter } from "../ui.tsx";
import type { Live, Row } from "./feed.ts";

/** Cells that are drawn; free ones only up to here. */
const MOST_CELLS = 256;
const MOST_FREE = 64;

export function Batch({ live, lit, stale }: { live: Live; lit: string | null; stale: boolean }) {
  const rows = live.rows.slice(0, MOST_CELLS);
  const free = Math.max(0, Math.min(live.slots, MOST_FREE) - rows.length);
  const left = live.rows.length - rows.length;
  return (
    <section class={stale ? "stack stale" : "stack"} aria-labelledby="batch-title">
      <div class="row">
        <h2 id="batch-title">Rows of the batch</h2>
        <span class="small soft">
          {live.rows.length} of {plural(live.slots, "slot")}
        </span>
        <span class="small faint end opt">user, age / prefix / tokens of at most</span>
      </div>
      <ul class="cells">
        {rows.map((row, i) => (
          <Cell key={i} row={row} lit={row.user === lit} />
        ))}
        {Array.from({ length: free }, (_, i) => (
          <li key={`free ${i}`} class="cell free">
            free
          </li>
        ))}
      </ul>
      {left > 0 && <p class="small faint">and {plural(left, "row")} more</p>}
    </section>
  );
}

function Cell({ row: { user, prefix, phase, tokens, of, age_ms }, lit }: { row: Row; lit: boolean }) {
  const [owner, name] = prefix === null ? ["", "base"] : ownerAndName(prefix);
  const isOthers = owner !== "" && owner !== user;
  return (
    <li class={`cell ${phase}${lit ? " lit" : ""}`}>
      <p class="who">
        <b class="cut">{user}</b>
        <span class="faint">{age(age_ms)}</span>
      </p>
      <p class="mono prefix" title={prefix ?? "base"}>
        {isOthers && <span class="cut faint">{owner}</span>}
        <span class="cut">{isOthers ? `/${name}` : name}</span>
      </p>
      <p class="soft">{phase === "prefill" ? `prefill ${tokens} of ${of}` : `${tokens} of ${of}`}</p>
      <Meter part={of === 0 ? 0 : tokens / of} />
    </li>
  );
}

/** Of `owner/name`; without an owner before it, "" and the name. */
function ownerAndName(prefix: string): readonly [string, string] {
  const at = prefix.indexOf("/");
  return [prefix.slice(0, Math.max(0, at)), prefix.slice(at + 1)];
}
