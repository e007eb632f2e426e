import { useEffect, useRef, useState } from "preact/hooks";
import { date } from "../format.ts";
import type { PageProps } from "../page-props.ts";
import { Note, Problem } from "../ui.tsx";
import { JobView } from "./job.tsx";
import { Jobs } from "./jobs.ts";
import { orderOf, type Order } from "./order.ts";
import { NewJob } from "./new-job.tsx";
import { JobState } from "./state.tsx";

/** Milliseconds between two looks while a job is under way, and while none is. */
const [BUSY_MS, CALM_MS] = [2_000, 15_000];

export function TrainPage({ session, comparison }: PageProps) {
  const [shown, setShown] = useState<string | null>(null);
  const [from, setFrom] = useState<{ readonly order: Order; readonly file: string } | null>(null);
  const { jobs, look } = useJobs(session, shown);
  const selected = jobs.jobs?.find(({ id }) => id === shown) ?? null;
  return (
    <>
      <div class="head">
        <h1>Train</h1>
        <p>Give examples, get a prefix. The model stays frozen; only what stands in front of the prompt learns.</p>
      </div>
      {jobs.off ? (
        <Note>
          <p>
            <strong>Training is off.</strong> <span class="soft">{jobs.failed!.message}</span>
          </p>
        </Note>
      ) : (
        <>
          {jobs.failed !== null && <Problem error={jobs.failed} />}
          {jobs.jobs !== null && (
            <div class="split even">
              <div class="stack">
                <NewJob
                  session={session}
                  jobs={jobs}
                  from={from}
                  onCreated={(job) => {
                    setShown(job.id);
                    void look();
                  }}
                />
                <JobList jobs={jobs} shown={shown} onShow={setShown} />
              </div>
              {selected === null ? (
                <section class="panel empty">
                  <p>
                    <strong>What you will see here</strong>
                  </p>
                  <p>
                    The loss of a job while it learns, and its score on lines that it never saw. Every checkpoint can be
                    compared, also while the job runs.
                  </p>
                </section>
              ) : (
                <JobView
                  key={selected.id}
                  session={session}
                  comparison={comparison}
                  jobs={jobs}
                  job={selected}
                  onChanged={look}
                  onAgain={(job) => setFrom({ order: orderOf(job), file: job.training_file })}
                />
              )}
            </div>
          )}
        </>
      )}
    </>
  );
}

interface JobListProps {
  readonly jobs: Jobs;
  readonly shown: string | null;
  readonly onShow: (id: string) => void;
}

function JobList({ jobs, shown, onShow }: JobListProps) {
  const all = jobs.jobs ?? [];
  return (
    <section class="panel" aria-labelledby="jobs-title">
      <header>
        <h2 id="jobs-title">Jobs</h2>
        <span class="small faint end">one at a time, the newest first</span>
      </header>
      {all.length === 0 ? (
        <p class="empty">No jobs yet.</p>
      ) : (
        <div class="scroll">
          <table class="pick">
            <thead class="sr">
              <tr>
                <th scope="col">Prefix</th>
                <th scope="col">State</th>
                <th scope="col">Created</th>
              </tr>
            </thead>
            <tbody>
              {all.map((job) => (
                <tr key={job.id} class={job.id === shown ? "on" : ""}>
                  <th scope="row">
                    <button type="button" class="link" aria-current={job.id === shown} onClick={() => onShow(job.id)}>
                      {job.prefix_id}
                    </button>
                  </th>
                  <td>
                    <JobState job={job} progress={jobs.progress(job.id)} />
                  </td>
                  <td class="num soft opt">{date(job.created_at)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

/** Looks again and again, but only while the page is seen. `look` does so at once. */
function useJobs(session: PageProps["session"], shown: string | null): { jobs: Jobs; look: () => Promise<void> } {
  const kept = useRef<Jobs | null>(null);
  const jobs = (kept.current ??= new Jobs(session.api));
  const [, setLooks] = useState(0);
  const at = useRef(shown);
  at.current = shown;
  const look = async (): Promise<void> => {
    await jobs.load(at.current);
    setLooks((looks) => looks + 1);
  };
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let turns = 0;
    const turn = async (): Promise<void> => {
      const mine = ++turns;
      await look();
      if (mine !== turns || document.hidden || jobs.off) return;
      timer = setTimeout(() => void turn(), jobs.busy ? BUSY_MS : CALM_MS);
    };
    const begin = (): void => {
      clearTimeout(timer);
      if (!document.hidden) void turn();
    };
    document.addEventListener("visibilitychange", begin);
    begin();
    return () => {
      turns = Infinity;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", begin);
    };
  }, [jobs, shown]);
  return { jobs, look };
}
