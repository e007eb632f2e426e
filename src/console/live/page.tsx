import { useEffect, useRef, useState } from "preact/hooks";
import type { ApiError } from "../api.ts";
import { clock, count, milliseconds, NONE, plural } from "../format.ts";
import type { PageProps } from "../page-props.ts";
import { Note } from "../ui.tsx";
import { Batch } from "./batch.tsx";
import { Chart } from "./chart.tsx";
import { followLive, type Live } from "./feed.ts";
import { History } from "./history.ts";
import { Queue } from "./queue.tsx";

/** Milliseconds between two draws where the reader wants little motion. */
const CALM_MS = 2000;

interface Shown {
  readonly live: Live | null;
  readonly past: History;
}

export function LivePage({ session: { api } }: PageProps) {
  const history = useRef(new History());
  /** What is drawn: the latest event, unless the view stands still. */
  const [{ live, past }, setShown] = useState<Shown>({ live: null, past: history.current });
  const [lost, setLost] = useState<{ readonly error: ApiError; readonly since: Date } | null>(null);
  const [paused, setPaused] = useState(false);
  const [lit, setLit] = useState<string | null>(null);
  const stands = useRef(false);
  stands.current = paused;
  useEffect(() => {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    let drawn = -Infinity;
    return followLive(
      api,
      (event) => {
        history.current.add(event);
        setLost(null);
        if (stands.current || (calm && performance.now() - drawn < CALM_MS)) return;
        drawn = performance.now();
        setShown({ live: event, past: history.current.copy() });
      },
      (error) => setLost((before) => ({ error, since: before?.since ?? new Date() })),
    );
  }, [api]);
  return (
    <>
      <div class="head row">
        <div>
          <h1>Live</h1>
          <p>What the server does now. One cell is one row of the batch; every step adds a token to each.</p>
        </div>
        {live !== null && <State live={live} lost={lost !== null} />}
        <button type="button" class="btn" aria-pressed={paused} onClick={() => setPaused(!paused)}>
          {paused ? "Go on" : "Pause view"}
        </button>
      </div>
      {lost !== null && (
        <Note tone="bad">
          <p>
            <strong>No news since {clock(lost.since)}.</strong>{" "}
            <span class="soft">
              {lost.error.title}. {lost.error.message} Trying again.
            </span>
          </p>
        </Note>
      )}
      {paused && live !== null && (
        <Note>
          <p>
            <strong>The view stands still at {clock(new Date(live.at))}.</strong>{" "}
            <span class="soft">The server goes on.</span>
          </p>
        </Note>
      )}
      {live === null ? (
        lost === null && <p class="soft">Waiting for the first event…</p>
      ) : (
        <>
          <Overload live={live} history={past} />
          <Gauges history={past} />
          <div class="split live">
            <Batch live={live} lit={lit} stale={paused || lost !== null} />
            <Queue live={live} onLight={setLit} />
          </div>
        </>
      )}
    </>
  );
}

function State({ live, lost }: { live: Live; lost: boolean }) {
  const full = live.waiting >= live.max_queue;
  const [tone, text] = lost
    ? ["bad", "No news"]
    : live.state === "draining"
      ? ["warn", "Draining"]
      : full
        ? ["warn", "Overloaded"]
        : ["ok", "Serving"];
  return (
    <span class="chip end">
      <i class={`dot ${tone}`} />
      {text}
    </span>
  );
}

function Overload({ live, history }: { live: Live; history: History }) {
  const [most] = live.users;
  if (live.waiting < live.max_queue || most === undefined) return null;
  return (
    <Note tone="warn">
      <p>
        <strong>
          Queue full: {count(live.waiting)} of {count(live.max_queue)} requests wait, {count(most.waiting)} of them of{" "}
          {most.user}.
        </strong>{" "}
        <span class="soft">
          In the last minute {plural(history.outcomes("queue_full"), "request")} got 429 <code>queue_full</code>.
        </span>
      </p>
    </Note>
  );
}

function Gauges({ history }: { history: History }) {
  const { moments, slowFirstTokenMs: slow } = history;
  const times = moments.map(({ at }) => at);
  const now = moments.at(-1);
  const hits = now?.cacheHits ?? null;
  const gauges = [
    {
      title: "Step time",
      text: milliseconds(now?.stepMs ?? null),
      values: moments.map(({ stepMs }) => stepMs),
      most: 1,
    },
    {
      title: "First token, mean",
      text: milliseconds(now?.firstTokenMs ?? null),
      more: slow === null ? "" : `99 % within ${slow === Infinity ? "minutes" : milliseconds(slow)}`,
      values: moments.map(({ firstTokenMs }) => firstTokenMs),
      most: 1,
    },
    {
      title: "Tokens a second",
      text: now === undefined ? NONE : count(now.tokensPerSecond),
      values: moments.map(({ tokensPerSecond }) => tokensPerSecond),
      most: 10,
    },
    {
      title: "Prefixes found in memory",
      text: hits === null ? NONE : `${hits.toFixed(1)} %`,
      values: moments.map(({ cacheHits }) => cacheHits),
      most: 100,
    },
  ];
  return (
    <section class="gauges" aria-label="The last 60 seconds">
      {gauges.map(({ title, text, more = "", values, most }) => (
        <div key={title} class="gauge">
          <h2 class="small soft">{title}</h2>
          <span class="small faint">{more}</span>
          <b>{text}</b>
          <Chart times={times} values={values} most={most} />
        </div>
      ))}
    </section>
  );
}
