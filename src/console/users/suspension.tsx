import { useState } from "preact/hooks";
import { Dialog } from "../ui.tsx";

interface SuspensionProps {
  readonly id: string;
  readonly suspended: boolean;
  readonly busy: boolean;
  readonly onChange: (suspended: boolean) => Promise<void>;
}

/** One button, which keeps the focus: it suspends after a question, and resumes without one. */
export function Suspension({ id, suspended, busy, onChange }: SuspensionProps) {
  const [asks, setAsks] = useState(false);
  return (
    <>
      <button
        type="button"
        class="btn end"
        aria-haspopup={suspended ? undefined : "dialog"}
        onClick={() => {
          if (!suspended) setAsks(true);
          else if (!busy) void onChange(false);
        }}
      >
        {suspended ? "Resume" : "Suspend…"}
      </button>
      {asks && (
        <Dialog
          title={`Suspend ${id}?`}
          onClose={() => setAsks(false)}
          foot={
            <>
              <button type="button" class="btn" onClick={() => setAsks(false)}>
                Cancel
              </button>
              <button
                type="button"
                class="btn main"
                disabled={busy}
                onClick={() => void onChange(true).then(() => setAsks(false))}
              >
                {busy ? "Suspending…" : "Suspend"}
              </button>
            </>
          }
        >
          <ul class="dots">
            <li>
              Their keys are refused with 403 <code>user_suspended</code>.
            </li>
            <li>Their running and waiting requests end, on all replicas.</li>
            <li>Nothing is deleted. Others may go on using prefixes that {id} shares.</li>
            <li>Resume undoes it.</li>
          </ul>
        </Dialog>
      )}
    </>
  );
}
