import { useState } from "preact/hooks";
import { useAction } from "./answers.ts";
import { Logo } from "./logo.tsx";
import { needsKey } from "./session.ts";
import { Field, Note, Problem } from "./ui.tsx";

/** @param enter rejects if the key is not good */
interface EnterProps {
  readonly enter: (key: string) => Promise<void>;
}

export function SignInPage({ enter }: EnterProps) {
  return (
    <main class="card">
      <div class="mark">
        <Logo />
        prefixd
      </div>
      <div class="panel">
        <div class="panel-body stack">
          <h1>Sign in with a key</h1>
          <p class="soft">
            prefixd at <span class="mono">{location.host}</span> asks for a key. An admin key opens every page; a user's
            key opens that user's.
          </p>
          <KeyForm enter={enter} />
        </div>
      </div>
      <p class="small faint">
        No key? The operator makes one with <code>npx prefixd users create-key YOU</code>.
      </p>
    </main>
  );
}

export function KeyForm({ enter }: EnterProps) {
  const [key, setKey] = useState("");
  const { busy, failed, act } = useAction();
  const submit = (event: Event): void => {
    event.preventDefault();
    act(() => enter(key.trim()));
  };
  return (
    <form class="stack" onSubmit={submit}>
      {failed !== null &&
        (needsKey(failed) ? (
          <Note tone="bad">
            <p>
              <strong>The server does not know this key.</strong>{" "}
              <span class="soft">It is mistyped, expired or deleted; the server does not say which.</span>
            </p>
          </Note>
        ) : (
          <Problem error={failed} />
        ))}
      <Field
        label="Your key"
        type="password"
        value={key}
        onValue={setKey}
        mono
        focus
        hint="The key stays in this tab's memory. Reloading or closing the tab forgets it."
      />
      <button type="submit" class="btn main" disabled={busy || key.trim() === ""}>
        {busy ? "Asking the server…" : "Sign in"}
      </button>
    </form>
  );
}
