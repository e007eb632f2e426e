import { useState } from "preact/hooks";
import type { User } from "../api.ts";
import { Confirm } from "../ui.tsx";

interface SuspensionProps {
  readonly user: Pick<User, "id" | "suspended">;
  /** Rejects if the server refuses it. */
  readonly suspend: () => Promise<void>;
  readonly resume: () => void;
}

/** One button, which keeps the focus: it suspends after a question, and resumes without one. */
export function Suspension({ user: { id, suspended }, suspend, resume }: SuspensionProps) {
  const [asks, setAsks] = useState(false);
  return (
    <>
      <button
        type="button"
        class="btn end"
        aria-haspopup={suspended ? undefined : "dialog"}
        onClick={() => (suspended ? resume() : setAsks(true))}
      >
        {suspended ? "Resume" : "Suspend…"}
      </button>
      {asks && (
        <Confirm
          title={`Suspend ${id}?`}
          action="Suspend"
          doing="Suspending…"
          failure={`${id} was not suspended.`}
          onConfirm={suspend}
          onClose={() => setAsks(false)}
        >
          <li>
            Their keys are refused with 403 <code>user_suspended</code>.
          </li>
          <li>Their running and waiting requests end, on all replicas.</li>
          <li>Nothing is deleted. Others may go on using prefixes that {id} shares.</li>
          <li>Resume undoes it.</li>
        </Confirm>
      )}
    </>
  );
}
