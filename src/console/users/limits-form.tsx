import { useState } from "preact/hooks";
import { asApiError, LIMITS, type ApiError, type Limits, type UserDetail } from "../api.ts";
import { Field, Problem } from "../ui.tsx";

const NAMES = Object.keys(LIMITS) as (keyof Limits)[];

interface LimitsProps {
  readonly user: UserDetail;
  /** Rejects if the server refuses it. */
  readonly onSave: (change: { weight: number; limits: Limits }) => Promise<void>;
}

export function LimitsForm({ user, onSave }: LimitsProps) {
  const [weight, setWeight] = useState(String(user.weight));
  /** As typed; empty: no limit. */
  const [typed, setTyped] = useState(
    () =>
      Object.fromEntries(NAMES.map((name) => [name, String(user.limits[name] ?? "")])) as Record<keyof Limits, string>,
  );
  const [failed, setFailed] = useState<ApiError | null>(null);
  const changed =
    weight !== String(user.weight) || NAMES.some((name) => typed[name] !== String(user.limits[name] ?? ""));
  const save = async (event: Event): Promise<void> => {
    event.preventDefault();
    setFailed(null);
    const limits = Object.fromEntries(
      NAMES.map((name) => [name, typed[name].trim() === "" ? null : Number(typed[name])]),
    ) as unknown as Limits;
    try {
      await onSave({ weight: Number(weight), limits });
    } catch (error) {
      setFailed(asApiError(error));
    }
  };
  return (
    <form class="stack line-top" aria-label="Weight and limits" onSubmit={(event) => void save(event)}>
      <h3>Weight and limits</h3>
      <div class="two">
        <Field label="Weight" type="number" step="any" min="0" value={weight} onValue={setWeight} />
        {NAMES.map((name) => (
          <Field
            key={name}
            label={LIMITS[name]}
            type="number"
            step="1"
            min="0"
            placeholder="no limit"
            value={typed[name]}
            onValue={(value) => setTyped((typed) => ({ ...typed, [name]: value }))}
          />
        ))}
      </div>
      {failed !== null && <Problem what="Nothing was changed." error={failed} />}
      <div class="row">
        <p class="small faint grow">Holds from the next request on. Running rows are not stopped.</p>
        <button type="submit" class="btn" disabled={!changed}>
          Save
        </button>
      </div>
    </form>
  );
}
