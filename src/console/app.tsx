/** The frame around the pages: who is signed in, which page shows, the bar. */
import type { ComponentType } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { asApiError, type ApiError } from "./api.ts";
import { ComparePage } from "./compare/page.tsx";
import { Comparison } from "./compare/comparison.ts";
import { LivePage } from "./live/page.tsx";
import { Logo } from "./logo.tsx";
import type { PageProps } from "./page-props.ts";
import { PrefixesPage } from "./prefixes/page.tsx";
import { hasUsers, needsKey, signIn, type Session } from "./session.ts";
import { ServerState } from "./server-state.tsx";
import { SignInPage, KeyForm } from "./sign-in.tsx";
import { Dialog, Note, Problem } from "./ui.tsx";
import { TrainPage } from "./train/page.tsx";
import { UsersPage } from "./users/page.tsx";

interface Page {
  readonly title: string;
  readonly view: ComponentType<PageProps>;
  readonly open: (session: Session) => boolean;
}

const PAGES: Readonly<Record<string, Page>> = {
  compare: { title: "Compare", view: ComparePage, open: () => true },
  live: { title: "Live", view: LivePage, open: ({ admin }) => admin },
  prefixes: { title: "Prefixes", view: PrefixesPage, open: () => true },
  train: { title: "Train", view: TrainPage, open: () => true },
  users: { title: "Users", view: UsersPage, open: hasUsers },
};

type Theme = "system" | "light" | "dark";
const THEMES: readonly Theme[] = ["system", "light", "dark"];

export function App() {
  const [session, setSession] = useState<Session | null>(null);
  const [failed, setFailed] = useState<ApiError | null>(null);
  /** The key that was good is no longer: the page stays as it is under the dialog. */
  const [asksAgain, setAsksAgain] = useState(false);
  const show = (next: Session): void => {
    // What another user asked for is nobody's any more.
    if (session !== null) session.api.onUnauthorized = () => undefined;
    next.api.onUnauthorized = () => setAsksAgain(true);
    setSession(next);
    setFailed(null);
  };
  const enter = (key: string | null): Promise<void> => signIn(key).then(show);
  useEffect(() => {
    // A server without keys needs no sign-in.
    enter(null).catch((error: unknown) => setFailed(asApiError(error)));
  }, []);
  if (session === null) {
    if (failed === null) return null;
    return needsKey(failed) ? <SignInPage enter={enter} /> : <Unreachable error={failed} />;
  }
  const again = async (key: string): Promise<void> => {
    const next = await signIn(key);
    setAsksAgain(false);
    if (next.user === session.user) session.api.useKey(key);
    else show(next);
  };
  return (
    <>
      <Frame key={session.user} session={session} signOut={() => location.reload()} />
      {asksAgain && (
        <Dialog title="Sign in again" onClose={() => undefined} fixed>
          <Note tone="warn">
            The server no longer takes your key. What is on the page stays, and what it asked for goes on.
          </Note>
          <KeyForm enter={again} />
        </Dialog>
      )}
    </>
  );
}

function Unreachable({ error }: { error: ApiError }) {
  return (
    <main class="card">
      <Problem error={error} />
      <button type="button" class="btn" onClick={() => location.reload()}>
        Try again
      </button>
    </main>
  );
}

function Frame({ session, signOut }: { session: Session; signOut: () => void }) {
  const name = usePageName();
  const [theme, setTheme] = useState<Theme>("system");
  const [who, setWho] = useState(false);
  const comparison = useMemo(() => new Comparison(session), [session]);
  useEffect(() => () => comparison.stop(), [comparison]);
  const main = useRef<HTMLElement>(null);
  const page = PAGES[name]!;
  useEffect(() => {
    document.title = `${page.title} · prefixd`;
  }, [name]);
  useEffect(() => {
    if (theme === "system") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = theme;
  }, [theme]);
  const View = page.view;
  return (
    <>
      <a
        class="skip"
        href="#main"
        onClick={(event) => {
          event.preventDefault();
          main.current?.focus();
        }}
      >
        Skip to content
      </a>
      <header class="bar">
        <a class="mark" href="#compare">
          <Logo />
          prefixd
        </a>
        <nav class="nav" aria-label="Pages">
          {Object.entries(PAGES)
            .filter(([, { open }]) => open(session))
            .map(([id, { title }]) => (
              <a key={id} href={`#${id}`} aria-current={id === name ? "page" : undefined}>
                {title}
              </a>
            ))}
        </nav>
        <ServerState session={session} />
        <button
          type="button"
          class="btn quiet"
          onClick={() => setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]!)}
        >
          Theme: {theme}
        </button>
        <button type="button" class="btn quiet cut" aria-haspopup="dialog" onClick={() => setWho(true)}>
          {session.user}
        </button>
      </header>
      <main id="main" ref={main} tabIndex={-1}>
        {page.open(session) ? (
          <View session={session} comparison={comparison} />
        ) : (
          <Note tone="bad">
            <p>
              <strong>This page needs the admin key.</strong>{" "}
              <span class="soft">
                {session.api.keyed ? `Yours is ${session.user}'s.` : "This server has no users."}
              </span>
            </p>
          </Note>
        )}
      </main>
      {who && <WhoDialog session={session} signOut={signOut} onClose={() => setWho(false)} />}
    </>
  );
}

function WhoDialog({ session, signOut, onClose }: { session: Session; signOut: () => void; onClose: () => void }) {
  const { api, user, model } = session;
  return (
    <Dialog
      title={api.keyed ? `Signed in as ${user}` : "A server without keys"}
      onClose={onClose}
      foot={
        api.keyed && (
          <button type="button" class="btn" onClick={signOut}>
            Sign out
          </button>
        )
      }
    >
      <p>
        {api.keyed
          ? "Your key is in this tab's memory only: reloading or closing the tab forgets it."
          : "It answers on this machine only, and everybody here may do everything."}
      </p>
      <dl class="kv">
        <dt>Server</dt>
        <dd class="mono">{location.host}</dd>
        <dt>Model</dt>
        <dd>
          {model.model}, {model.layers} layers, {model.n_positions} positions, {model.device} {model.precision}
        </dd>
        <dt>Fingerprint</dt>
        <dd class="mono">{model.fingerprint.slice(0, 16)}</dd>
      </dl>
    </Dialog>
  );
}

/** The page that the address names after its #; another name is Compare. */
function usePageName(): string {
  const read = (): string => {
    const name = location.hash.slice(1);
    return Object.hasOwn(PAGES, name) ? name : "compare";
  };
  const [name, setName] = useState(read);
  useEffect(() => {
    const onChange = (): void => setName(read());
    addEventListener("hashchange", onChange);
    return () => removeEventListener("hashchange", onChange);
  }, []);
  return name;
}
