/** When each row waited, was prefilled and got its tokens, on one axis: that they ran together. */
import { milliseconds, plural } from "../format.ts";
import { Segments } from "../ui.tsx";
import type { Comparison } from "./comparison.ts";
import { SPEEDS } from "./replay.ts";
import type { Run } from "./run.ts";

const [WIDTH, HEIGHT] = [1000, 16];
/** Between grid lines, in milliseconds: the first that gives at most eight. */
const TICKS = [5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000];

export function Lanes({ comparison }: { comparison: Comparison }) {
  const { columns, replay } = comparison;
  const last = Math.max(1, comparison.length);
  const tick = TICKS.find((each) => last / each <= 8) ?? last;
  const ticks = Array.from({ length: Math.floor(last / tick) + 1 }, (_, i) => i * tick);
  return (
    <section class="panel lanes-panel" aria-labelledby="lanes-title">
      <header>
        <h2 id="lanes-title">How the batch ran</h2>
        <p class="legend">
          <span>
            <b class="key-queue" /> queue
          </span>
          <span>
            <b class="key-prefill" /> prefill
          </span>
          <span>
            <b class="key-token" /> a token, when it arrived here
          </span>
        </p>
        {comparison.ended && comparison.length > 0 && (
          <span class="row end">
            <Segments
              label="Speed of the replay"
              bare
              options={SPEEDS}
              value={replay.speed}
              onValue={(speed) => replay.setSpeed(speed)}
            />
            <button
              type="button"
              class="btn"
              onClick={() => (replay.playing ? replay.show(replay.moment) : replay.play(last))}
            >
              {replay.playing ? "Pause" : "Replay"}
            </button>
          </span>
        )}
      </header>
      <div class="lanes">
        {columns.map(({ place, prefix, run }) => (
          <div key={place} class={`lane c${place}`}>
            <span class="mono cut">{prefix ?? "base"}</span>
            <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
              {ticks.map((at) => (
                <path key={at} class="grid" d={`M${(at / last) * WIDTH} 0v${HEIGHT}`} />
              ))}
              {run !== null && <Lane run={run} scale={WIDTH / last} moment={replay.moment} />}
              {replay.moment !== null && <path class="now" d={`M${(replay.moment / last) * WIDTH} 0v${HEIGHT}`} />}
            </svg>
            <span class="num soft">{run === null ? "" : plural(run.tokens.length, "token")}</span>
          </div>
        ))}
        <p class="axis small faint">
          <span>0</span>
          <span>{milliseconds(last)}</span>
        </p>
        {comparison.ended && comparison.length > 0 && (
          <div class="lane play">
            <span class="small soft num">{milliseconds(replay.moment ?? last)}</span>
            <input
              type="range"
              aria-label="Moment of the replay"
              aria-valuetext={`${(replay.moment ?? last).toFixed(0)} milliseconds`}
              min="0"
              max={last.toFixed(1)}
              step="0.1"
              value={(replay.moment ?? last).toFixed(1)}
              onInput={({ currentTarget: { value, max } }) => replay.show(value === max ? null : Number(value))}
            />
          </div>
        )}
      </div>
    </section>
  );
}

/** The server tells how long it waited and was prefilled with the last token: until then only tokens show. */
function Lane({ run: { tokens, timings }, scale, moment }: { run: Run; scale: number; moment: number | null }) {
  const first = tokens[0]?.at ?? 0;
  const prefill = timings === null ? null : Math.max(0, first - timings.prefill_ms);
  return (
    <>
      {prefill !== null && (
        <>
          <path class="queue" d={`M0 ${HEIGHT / 2}H${prefill * scale}`} />
          <rect class="prefill" x={prefill * scale} y={1} width={(first - prefill) * scale} height={HEIGHT - 2} />
        </>
      )}
      {tokens.map(({ at }, i) => (
        <rect
          key={i}
          class={moment === null || at <= moment ? "tick" : "tick off"}
          x={Math.min(at * scale, WIDTH - 3)}
          y={1}
          width={3}
          height={HEIGHT - 2}
        />
      ))}
    </>
  );
}
