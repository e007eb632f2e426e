import { useRef, useState } from "preact/hooks";
import { useAction, useTurns } from "../answers.ts";
import type { Comparison } from "../compare/comparison.ts";
import { count, date, duration, plural } from "../format.ts";
import type { Session } from "../session.ts";
import { CopyButton, keepFocus, Note, once, Problem } from "../ui.tsx";
import type { Jobs } from "./jobs.ts";
import { orderOf } from "./order.ts";
import { isEnded, isSearch, type Job, type Progress } from "./progress.ts";
import { LossChart } from "./loss-chart.tsx";
import { PublishDialog } from "./publish.tsx";
import { JobState } from "./state.tsx";

interface JobProps {
  readonly session: Session;
  readonly comparison: Comparison;
  readonly jobs: Jobs;
  readonly job: Job;
  readonly onChanged: () => Promise<void>;
  /** Its settings are wanted in the form. */
  readonly onAgain: (job: Job) => void;
}

export function JobView({ session, comparison, jobs, job, onChanged, onAgain }: JobProps) {
  const { busy, failed, act } = useAction();
  const begin = useTurns();
  const progress = jobs.progress(job.id);
  const title = useRef<HTMLHeadingElement>(null);
  const cancel = (): void =>
    act(async () => {
      await jobs.cancel(job.id).finally(onChanged);
      keepFocus(() => title.current);
    });
  /** With a prompt as the job's own examples have it; unless another job or page is looked at by then. */
  const tryIt = async (prefix: string): Promise<void> => {
    const isNewest = begin();
    const prompt = await firstPrompt(session, job);
    if (!isNewest()) return;
    comparison.show(prefix, prompt);
    location.hash = "compare";
  };
  const done = isEnded(job);
  return (
    <section class="panel" aria-labelledby="job-title">
      <header>
        <h2 ref={title} id="job-title" class="mono cut" tabIndex={-1}>
          {job.prefix_id}
        </h2>
        <JobState job={job} progress={progress} />
        <span class="row end">
          {!done && (
            <button type="button" class="btn" aria-disabled={busy} onClick={cancel}>
              Cancel
            </button>
          )}
          {done && (
            <button type="button" class="btn" onClick={once(() => onAgain(job))}>
              Same settings again
            </button>
          )}
          {job.status === "succeeded" && (
            <button type="button" class="btn main" onClick={() => void tryIt(job.prefix_id)}>
              Try it
            </button>
          )}
        </span>
      </header>
      <div class="panel-body stack">
        {failed !== null && <Problem error={failed} />}
        {job.error !== null && (
          <Note tone="bad">
            <p>
              <strong>{job.error.message}</strong>{" "}
              <span class="soft">
                <code>{job.error.code}</code> Its checkpoints, if it has any, stay.
              </span>
            </p>
          </Note>
        )}
        {job.triggers && <Triggers triggers={job.triggers} isResult={job.status === "succeeded"} />}
        <Losses progress={progress} />
        {progress.evaluations.length > 0 && <Evaluations {...{ session, jobs, job, progress, tryIt }} />}
        {progress.warnings.length > 0 && (
          <details>
            <summary>{plural(progress.warnings.length, "warning")}</summary>
            <ul class="dots small">
              {progress.warnings.map((warning) => (
                <li key={warning}>{warning}</li>
              ))}
            </ul>
          </details>
        )}
        <Facts jobs={jobs} job={job} steps={progress.steps} />
      </div>
    </section>
  );
}

interface TriggersProps {
  readonly triggers: NonNullable<Job["triggers"]>;
  readonly isResult: boolean;
}

/** What a search has found, as text that can be copied. */
function Triggers({ triggers: { text, token_ids }, isResult }: TriggersProps) {
  const shown = useRef<HTMLElement>(null);
  return (
    <section class="stack" aria-labelledby="triggers-title">
      <div class="row">
        <h3 id="triggers-title">{isResult ? "Triggers found" : "Best triggers so far"}</h3>
        {text !== null && (
          <span class="end">
            <CopyButton text={text} from={() => shown.current} />
          </span>
        )}
      </div>
      {text === null ? (
        <p class="soft">They cannot be typed: their text is read as other tokens.</p>
      ) : (
        <p class="found">
          <code ref={shown}>{text}</code>
        </p>
      )}
      <p class="small faint">
        Token ids <span class="mono">{token_ids.join(" ")}</span>
      </p>
    </section>
  );
}

function Losses({ progress }: { progress: Progress }) {
  if (progress.losses.length === 0) return <p class="soft">The losses show here as soon as there are some.</p>;
  return (
    <section class="stack" aria-labelledby="loss-title">
      <div class="row">
        <h3 id="loss-title">Loss, nats a token</h3>
        <p class="legend end">
          <span>
            <b class="key-loss" /> of a step's rows
          </span>
          <span>
            <b class="key-held" /> held out
          </span>
        </p>
      </div>
      <LossChart progress={progress} />
    </section>
  );
}

interface EvaluationsProps {
  readonly session: Session;
  readonly jobs: Jobs;
  readonly job: Job;
  readonly progress: Progress;
  readonly tryIt: (prefix: string) => Promise<void>;
}

/** The newest first, each with its checkpoint if that is still registered. */
function Evaluations({ session, jobs, job, progress: { evaluations }, tryIt }: EvaluationsProps) {
  const [publishes, setPublishes] = useState<{ readonly step: number; readonly checkpoint: string } | null>(null);
  const [published, setPublished] = useState<number | null>(null);
  const checkpoints = jobs.checkpoints(job.id);
  const best = evaluations.reduce((a, b) => (b.loss < a.loss ? b : a));
  return (
    <section class="stack" aria-labelledby="scores-title">
      <h3 id="scores-title">Held-out lines</h3>
      {published !== null && (
        <Note tone="ok">
          <p>
            <strong>
              {job.prefix_id} is step {published} now.
            </strong>
          </p>
        </Note>
      )}
      <div class="scroll">
        <table class="flush">
          <thead>
            <tr>
              <th scope="col">Step</th>
              <th scope="col" class="num">
                Loss
              </th>
              <th scope="col" class="num">
                Tokens right
              </th>
              <th scope="col">Checkpoint</th>
            </tr>
          </thead>
          <tbody>
            {[...evaluations].reverse().map(({ step, loss, accuracy }) => {
              const name = checkpoints.find(({ step_number }) => step_number === step)?.fine_tuned_model_checkpoint;
              return (
                <tr key={step}>
                  <th scope="row">
                    {count(step)} {step === best.step && <span class="tag">best</span>}
                  </th>
                  <td class="num">{loss.toFixed(3)}</td>
                  <td class="num">{(100 * accuracy).toFixed(1)} %</td>
                  <td>
                    {name === undefined ? (
                      <span class="faint">no longer kept</span>
                    ) : (
                      <span class="row nowrap">
                        <button
                          type="button"
                          class="btn tiny"
                          aria-label={`Compare step ${step}`}
                          onClick={() => void tryIt(name)}
                        >
                          Compare
                        </button>
                        {isEnded(job) && (
                          <button
                            type="button"
                            class="btn tiny"
                            aria-label={`Publish step ${step}`}
                            aria-haspopup="dialog"
                            onClick={() => setPublishes({ step, checkpoint: name })}
                          >
                            Publish…
                          </button>
                        )}
                      </span>
                    )}
                  </td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
      {publishes !== null && (
        <PublishDialog
          session={session}
          name={job.prefix_id}
          isPrompt={isSearch(job)}
          {...publishes}
          onClose={() => setPublishes(null)}
          onPublished={() => {
            setPublished(publishes.step);
            setPublishes(null);
          }}
        />
      )}
    </section>
  );
}

function Facts({ jobs, job, steps }: { jobs: Jobs; job: Job; steps: number | null }) {
  const { hyperparameters: given } = job;
  const file = jobs.files.find(({ id }) => id === job.training_file);
  const order = orderOf(job);
  return (
    <dl class="kv line-top">
      <dt>Job</dt>
      <dd class="mono">{job.id}</dd>
      <dt>Examples</dt>
      <dd>{file?.filename ?? `${job.training_file}, deleted`}</dd>
      <dt>Settings</dt>
      <dd>
        {given.peft_type}, {lengthOf(job, steps)} of {plural(Number(order.batch), "row")},{" "}
        {isSearch(job)
          ? `${plural(Number(order.candidates), "candidate")}, ${plural(Number(order.tokens), "token")}`
          : `rate ${order.rate}, ${plural(Number(order.tokens), "virtual token")}`}
        {order.initText !== "" && `, from “${order.initText}”`}
      </dd>
      <dt>Started</dt>
      <dd>
        {date(job.created_at)}
        {job.finished_at !== null && `, ended after ${duration(job.finished_at - job.created_at)}`}
        {job.trained_tokens !== null && `, ${count(job.trained_tokens)} tokens`}
      </dd>
    </dl>
  );
}

/** "8 steps", or as it was asked for while the data has not told their number. */
function lengthOf({ hyperparameters: { n_steps, n_epochs } }: Job, steps: number | null): string {
  const known = steps ?? n_steps;
  if (known !== undefined) return plural(known, "step");
  return typeof n_epochs === "number" ? plural(n_epochs, "epoch") : "steps by the number of lines, each";
}

/** null where the file is gone, or its first line says nothing. */
async function firstPrompt({ api }: Session, job: Job): Promise<string | null> {
  try {
    const line = await api.firstLine(`/v1/files/${job.training_file}/content`);
    const { prompt } = JSON.parse(line ?? "") as { prompt?: unknown };
    return typeof prompt === "string" ? prompt : null;
  } catch {
    return null;
  }
}
