import { duration } from "../format.ts";
import { Meter } from "../ui.tsx";
import type { Job, Progress } from "./progress.ts";

/** A job's state in words; where it runs, how far it is. */
export function JobState({ job: { status }, progress }: { job: Job; progress: Progress }) {
  if (status !== "running") {
    const [tone, text] = STATES[status];
    return (
      <span class="chip">
        <i class={`dot ${tone}`} />
        {text}
      </span>
    );
  }
  const { step, steps, secondsLeft } = progress;
  const part = steps === null ? 0 : step / steps;
  return (
    <span class="chip">
      <span class="short">
        <Meter part={part} />
      </span>
      {steps === null
        ? "running"
        : `step ${step} of ${steps}${secondsLeft === null ? "" : `, ${duration(secondsLeft)} left`}`}
    </span>
  );
}

const STATES = {
  queued: ["", "queued"],
  validating_files: ["", "reading its file"],
  succeeded: ["ok", "succeeded"],
  failed: ["bad", "failed"],
  cancelled: ["", "cancelled"],
} as const;
