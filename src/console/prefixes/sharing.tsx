import { useRef, useState } from "preact/hooks";
import { asApiError, type ApiError, type Prefix } from "../api.ts";
import { Field, keepFocus, once, Problem, Segments } from "../ui.tsx";

interface Change {
  readonly visibility?: Prefix["visibility"];
  readonly shared_with?: readonly string[];
  readonly readable_by?: readonly string[];
}

interface SharingProps {
  readonly prefix: Prefix;
  readonly owner: string;
  /** Resolves with what it is then; rejects if the server refuses it. */
  readonly onChange: (change: Change) => Promise<Prefix>;
}

/** The lists are sent whole: one change waits for the one before, and is made of what that has left. */
export function Sharing({ prefix, owner, onChange }: SharingProps) {
  const { id, visibility, shared_with = [], readable_by = [] } = prefix;
  const [user, setUser] = useState("");
  const [failed, setFailed] = useState<ApiError | null>(null);
  const section = useRef<HTMLElement>(null);
  const now = useRef(prefix);
  now.current = prefix;
  const before = useRef(Promise.resolve());
  const change = (to: (now: Prefix) => Change, done?: () => void): void => {
    setFailed(null);
    before.current = before.current
      .then(async () => {
        now.current = await onChange(to(now.current));
        done?.();
        keepFocus(() => section.current);
      })
      .catch((error: unknown) => setFailed(asApiError(error)));
  };
  const users = [...new Set([...shared_with, ...readable_by])].sort();
  return (
    <section ref={section} class="stack line-top" aria-label="Sharing" tabIndex={-1}>
      <Segments
        label="Who else may use it"
        options={{ private: "Users named here", shared: "All users" }}
        value={visibility}
        onValue={(to) => change(() => ({ visibility: to }))}
      />
      <ul class="shares">
        {users.map((one) => (
          <li key={one}>
            <span class="mono cut grow">{one}</span>
            <select
              aria-label={`What ${one} may do`}
              value={readable_by.includes(one) ? "read" : "use"}
              onChange={({ currentTarget: { value } }) =>
                change(granting(one, value === "read" ? "readable_by" : "shared_with"))
              }
            >
              <option value="use">Use</option>
              <option value="read">Use and read</option>
            </select>
            <button
              type="button"
              class="btn quiet"
              aria-label={`Stop sharing with ${one}`}
              onClick={once(() => change(granting(one)))}
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
          // Another name may be typed by the time that this one is shared with.
          if (user !== "")
            change(granting(user, "shared_with"), () => setUser((typed) => (typed === user ? "" : typed)));
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

/** Takes a user from both lists, and puts them on that one. */
const granting =
  (user: string, list?: "shared_with" | "readable_by") =>
  ({ shared_with = [], readable_by = [] }: Prefix): Change => {
    const without = (users: readonly string[]): string[] => users.filter((other) => other !== user);
    const lists = { shared_with: without(shared_with), readable_by: without(readable_by) };
    return list === undefined ? lists : { ...lists, [list]: [...lists[list], user] };
  };
