import { useEffect, useRef, useState } from "preact/hooks";
import { useAction } from "../answers.ts";
import type { Api, UserDetail } from "../api.ts";
import { date } from "../format.ts";
import type { Session } from "../session.ts";
import { CopyButton, Dialog, keepFocus, Note, once, Problem } from "../ui.tsx";

interface KeysProps {
  readonly session: Session;
  /** The user's. */
  readonly path: string;
  readonly user: UserDetail;
  readonly onChanged: () => Promise<void>;
}

export function Keys({ session: { api }, path, user, onChanged }: KeysProps) {
  const [makes, setMakes] = useState(false);
  const { failed, act } = useAction();
  const title = useRef<HTMLHeadingElement>(null);
  const remove = (keyId: string): void =>
    act(async () => {
      await api.send("DELETE", `${path}/keys/${keyId}`);
      await onChanged();
      keepFocus(() => title.current);
    });
  return (
    <section class="stack" aria-labelledby="keys-title">
      <div class="row">
        <h3 ref={title} id="keys-title" tabIndex={-1}>
          Keys
        </h3>
        <button type="button" class="btn end" aria-haspopup="dialog" onClick={() => setMakes(true)}>
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
              onClick={once(() => remove(key_id))}
            >
              Delete
            </button>
          </li>
        ))}
      </ul>
      {makes && <NewKey api={api} path={path} name={user.id} onMade={onChanged} onClose={() => setMakes(false)} />}
    </section>
  );
}

interface NewKeyProps {
  readonly api: Api;
  /** The user's. */
  readonly path: string;
  readonly name: string;
  readonly onMade: () => Promise<void>;
  readonly onClose: () => void;
}

/** Makes one as it opens, and stays until it can be shown: nobody shows it again. */
function NewKey({ api, path, name, onMade, onClose }: NewKeyProps) {
  const [value, setValue] = useState<string | null>(null);
  const { failed, act } = useAction();
  const code = useRef<HTMLPreElement>(null);
  useEffect(() => {
    act(async () => {
      setValue((await api.send<{ key: string }>("POST", `${path}/keys`, {})).key);
      await onMade();
    });
  }, []);
  return (
    <Dialog
      title={`New key of ${name}`}
      onClose={onClose}
      fixed={value === null && failed === null}
      foot={
        value !== null && (
          <>
            <CopyButton text={value} from={() => code.current} />
            <button type="button" class="btn main" onClick={onClose}>
              I have stored it
            </button>
          </>
        )
      }
    >
      {failed !== null && <Problem what="No key was made." error={failed} />}
      {value !== null && (
        <>
          <Note tone="warn">Shown this once. The server keeps only its hash.</Note>
          <pre ref={code} tabIndex={0}>
            {value}
          </pre>
        </>
      )}
    </Dialog>
  );
}
