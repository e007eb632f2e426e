import { useState } from "preact/hooks";
import { useAction } from "../answers.ts";
import { LIMITS, type Limits, type UserDetail } from "../api.ts";
import { Field, Problem } from "../ui.tsx";

const NAMES = Object.keys(LIMITS) as (keyof Limits)[];
/** As typed; an empty limit: none. */
type Typed = Partial<Record<"weight" | keyof Limits, string>>;

interface LimitsProps {
  readonly user: UserDetail;
  /** Rejects if the server refuses it. */
  readonly onSave: (change: { weight?: number; limits: Partial<Limits> }) => Promise<void>;
}

export function LimitsForm({ user, onSave }: LimitsProps) {
  const stored: Required<Typed> = {
    weight: String(user.weight),
    ...(Object.fromEntries(NAMES.map((name) => [name, String(user.limits[name] ?? "")])) as Record<
      keyof Limits,
      string
    >),
  };
  const [typed, setTyped] = useState<Typed>({});
  const { failed, act } = useAction();
  const changes = Object.entries(typed).filter(([name, value]) => value !== stored[name as keyof Typed]);
  const save = async (): Promise<void> => {
    const { weight, ...limits } = Object.fromEntries(
      changes.map(([name, value]) => [name, value.trim() === "" ? null : Number(value)]),
    );
    await onSave({ ...(weight === undefined ? {} : { weight: weight ?? 0 }), limits });
    // What was typed since is not saved yet.
    setTyped((now) =>
      Object.fromEntries(Object.entries(now).filter(([name, value]) => value !== typed[name as keyof Typed])),
    );
  };
  const field = (name: keyof Typed, label: string, more: object) => (
    <Field
      key={name}
      label={label}
      type="number"
      min="0"
      value={typed[name] ?? stored[name]}
      onValue={(value) => setTyped((typed) => ({ ...typed, [name]: value }))}
      {...more}
    />
  );
  return (
    <form
      class="stack line-top"
      aria-label="Weight and limits"
      onSubmit={(event) => {
        event.preventDefault();
        act(save);
      }}
    >
      <h3>Weight and limits</h3>
      <div class="two">
        {field("weight", "Weight", { step: "any" })}
        {NAMES.map((name) => field(name, LIMITS[name], { step: "1", placeholder: "no limit" }))}
      </div>
      {failed !== null && <Problem what="Nothing was changed." error={failed} />}
      <div class="row">
        <p class="small faint grow">Holds from the next request on. Running rows are not stopped.</p>
        <button type="submit" class="btn" disabled={changes.length === 0}>
          Save
        </button>
      </div>
    </form>
  );
}
