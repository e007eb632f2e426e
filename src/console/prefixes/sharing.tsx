import { useState } from "preact/hooks";
import { asApiError, type ApiError, type Prefix } from "../api.ts";
import { Field, Problem, Segments } from "../ui.tsx";

interface Change {
  readonly visibility?: Prefix["visibility"];
  readonly shared_with?: readonly string[];
  readonly readable_by?: readonly string[];
}

interface SharingProps {
  readonly prefix: Prefix;
  readonly owner: string;
  /** Rejects if the server refuses it. */
  readonly onChange: (change: Change) => Promise<void>;
}

export function Sharing({
  prefix: { id, visibility, shared_with = [], readable_by = [] },
  owner,
  onChange,
}: SharingProps) {
  const [user, setUser] = useState("");
  const [failed, setFailed] = useState<ApiError | null>(null);
  const change = async (to: Change): Promise<void> => {
    setFailed(null);
    try {
      await onChange(to);
      setUser("");
    } catch (error) {
      setFailed(asApiError(error));
    }
  };
  const without = (list: readonly string[], one: string): string[] => list.filter((other) => other !== one);
  const users = [...new Set([...shared_with, ...readable_by])].sort();
  const may = (one: string, reads: boolean): Change => ({
    shared_with: reads ? without(shared_with, one) : [...without(shared_with, one), one],
    readable_by: reads ? [...without(readable_by, one), one] : without(readable_by, one),
  });
  return (
    <section class="stack line-top" aria-label="Sharing">
      <Segments
        label="Who else may use it"
        options={{ private: "Users named here", shared: "All users" }}
        value={visibility}
        onValue={(to) => void change({ visibility: to })}
      />
      <ul class="shares">
        {users.map((one) => (
          <li key={one}>
            <span class="mono cut grow">{one}</span>
            <select
              aria-label={`What ${one} may do`}
              value={readable_by.includes(one) ? "read" : "use"}
              onChange={({ currentTarget }) => void change(may(one, currentTarget.value === "read"))}
            >
              <option value="use">Use</option>
              <option value="read">Use and read</option>
            </select>
            <button
              type="button"
              class="btn quiet"
              aria-label={`Stop sharing with ${one}`}
              onClick={() =>
                void change({ shared_with: without(shared_with, one), readable_by: without(readable_by, one) })
              }
            >
              Stop
            </button>
          </li>
        ))}
      </ul>
      <form
        class="row bottom"
        onSubmit={(event) => {
          event.preventDefault();
          if (user !== "") void change(may(user, false));
        }}
      >
        <Field label="User to share with" value={user} onValue={setUser} mono placeholder="user id" />
        <button type="submit" class="btn" disabled={user === ""}>
          Share
        </button>
      </form>
      <p class="small faint">
        Use: generate with it, as {owner}/{id}. Read: download its files too.
      </p>
      {failed !== null && <Problem what="Nothing was changed." error={failed} />}
    </section>
  );
}
