import { useEffect, useRef, useState } from "preact/hooks";
import { useTurns } from "../answers.ts";
import { asApiError, type ApiError, type Prefix, type PrefixVersion } from "../api.ts";
import { date, plural, size } from "../format.ts";
import type { Session } from "../session.ts";
import { Confirm, Problem } from "../ui.tsx";

interface VersionsProps {
  readonly session: Session;
  /** Its owner may put a version back. */
  readonly prefix: Prefix;
  readonly onRestored: (restored: Prefix) => void;
}

/** What the prefix was before, the last one first. Nothing is shown where no earlier version is kept. */
export function Versions({ session: { api }, prefix, onRestored }: VersionsProps) {
  const path = `/prefixes/${encodeURIComponent(prefix.id)}`;
  const [earlier, setEarlier] = useState<readonly PrefixVersion[]>([]);
  const [failed, setFailed] = useState<ApiError | null>(null);
  const [asked, ask] = useState<PrefixVersion | null>(null);
  const title = useRef<HTMLHeadingElement>(null);
  const begin = useTurns();
  useEffect(() => {
    const isNewest = begin();
    api.get<{ versions: PrefixVersion[] }>(`${path}/versions`).then(
      ({ versions }) => {
        if (!isNewest()) return;
        setEarlier(versions.filter(({ current }) => !current));
        setFailed(null);
      },
      (error: unknown) => isNewest() && setFailed(asApiError(error)),
    );
  }, [path, prefix.digest]);
  // The button that was pressed goes away with its version.
  const moved = useRef(false);
  useEffect(() => {
    if (asked !== null || !moved.current) return;
    moved.current = false;
    title.current?.focus();
  }, [asked]);
  if (failed === null && earlier.length === 0) return null;
  return (
    <section class="stack line-top" aria-labelledby="versions-title">
      <h3 ref={title} id="versions-title" tabIndex={-1}>
        Earlier versions
      </h3>
      {failed !== null && <Problem error={failed} />}
      <ul class="shares">
        {earlier.map((version) => (
          <li key={version.digest}>
            <span class="grow">
              <code>{version.digest.slice(0, 8)}</code>{" "}
              <span class="small soft">
                {plural(version.virtual_tokens, "virtual token")}, {size(version.bytes)}
              </span>
              <br />
              <span class="small faint">
                {date(version.updated_at)}, {writer(version.updated_by)}
              </span>
            </span>
            {prefix.access === "owner" && (
              <button
                type="button"
                class="btn tiny"
                aria-haspopup="dialog"
                aria-label={`Put back ${version.digest.slice(0, 8)}`}
                onClick={() => ask(version)}
              >
                Put back…
              </button>
            )}
          </li>
        ))}
      </ul>
      {asked !== null && (
        <Confirm
          title={`Put back ${asked.digest.slice(0, 8)} as ${prefix.id}?`}
          action="Put back"
          doing="Putting back…"
          failure="It was not put back."
          onConfirm={async () => {
            const { digest } = asked;
            onRestored(await api.send<Prefix>("POST", `${path}/restore`, { digest }, { ifMatch: prefix.digest }));
            moved.current = true;
          }}
          onClose={() => ask(null)}
        >
          <li>New requests get it at once; running ones finish with what they began with.</li>
          <li>
            What <code>{prefix.id}</code> is now becomes an earlier version. Who it is shared with stays.
          </li>
        </Confirm>
      )}
    </section>
  );
}

function writer(updatedBy: string | null): string {
  if (updatedBy === null) return "by whom is not known";
  if (updatedBy === "local") return "without a key";
  if (updatedBy.startsWith("ftjob-")) return `by job ${updatedBy}`;
  return `by ${updatedBy.startsWith("sha256:") ? "admin key" : "key"} ${updatedBy}`;
}
