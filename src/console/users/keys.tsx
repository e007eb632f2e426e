import { useRef, useState } from "preact/hooks";
import { asApiError, type ApiError, type UserDetail } from "../api.ts";
import { date } from "../format.ts";
import type { Session } from "../session.ts";
import { CopyButton, Dialog, Note, Problem } from "../ui.tsx";

interface KeysProps {
  readonly session: Session;
  /** The user's. */
  readonly path: string;
  readonly user: UserDetail;
  readonly onChanged: () => Promise<void>;
}

export function Keys({ session: { api }, path, user, onChanged }: KeysProps) {
  const [made, setMade] = useState<string | null>(null);
  const [failed, setFailed] = useState<ApiError | null>(null);
  const attempt = async (action: () => Promise<void>): Promise<void> => {
    setFailed(null);
    try {
      await action();
      await onChanged();
    } catch (error) {
      setFailed(asApiError(error));
    }
  };
  const create = (): Promise<void> =>
    attempt(async () => setMade((await api.send<{ key: string }>("POST", `${path}/keys`, {})).key));
  const remove = (keyId: string): Promise<void> => attempt(() => api.send("DELETE", `${path}/keys/${keyId}`));
  return (
    <section class="stack" aria-labelledby="keys-title">
      <div class="row">
        <h3 id="keys-title">Keys</h3>
        <button type="button" class="btn end" onClick={() => void create()}>
          New key
        </button>
      </div>
      {failed !== null && <Problem error={failed} />}
      {user.keys.length === 0 && <p class="soft">No key: {user.id} cannot sign in.</p>}
      <ul class="shares">
        {user.keys.map(({ key_id, created_at, expires_at }) => (
          <li key={key_id}>
            <span class="grow">
              <code>pfx_{key_id}_…</code>
              <br />
              <span class="small faint">
                made {date(created_at)}, {expires_at === null ? "no end" : `ends ${date(expires_at)}`}
              </span>
            </span>
            <button
              type="button"
              class="btn quiet danger"
              aria-label={`Delete key ${key_id}`}
              onClick={() => void remove(key_id)}
            >
              Delete
            </button>
          </li>
        ))}
      </ul>
      {made !== null && <NewKey name={user.id} value={made} onClose={() => setMade(null)} />}
    </section>
  );
}

function NewKey({ name, value, onClose }: { name: string; value: string; onClose: () => void }) {
  const code = useRef<HTMLPreElement>(null);
  return (
    <Dialog
      title={`New key of ${name}`}
      onClose={onClose}
      foot={
        <>
          <CopyButton text={value} from={() => code.current} />
          <button type="button" class="btn main" onClick={onClose}>
            I have stored it
          </button>
        </>
      }
    >
      <Note tone="warn">Shown this once. The server keeps only its hash.</Note>
      <pre ref={code} tabIndex={0}>
        {value}
      </pre>
    </Dialog>
  );
}
