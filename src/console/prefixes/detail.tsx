import { useEffect, useState } from "preact/hooks";
import { useTurns } from "../answers.ts";
import { asApiError, type ApiError, type Prefix } from "../api.ts";
import type { Comparison } from "../compare/comparison.ts";
import { date, plural, size } from "../format.ts";
import { hasUsers, type Session } from "../session.ts";
import { Confirm, CopyButton, Problem } from "../ui.tsx";
import { requestsOf, UsageBars, type UsageRow } from "../usage.tsx";
import { Files } from "./files-list.tsx";
import { Residency } from "./residency.tsx";
import { Sharing } from "./sharing.tsx";
import { Versions } from "./versions.tsx";

interface DetailProps {
  readonly session: Session;
  readonly comparison: Comparison;
  readonly prefix: Prefix;
  /** The caller's own use of it. */
  readonly usage: readonly UsageRow[];
  readonly onChanged: () => void;
  readonly onDeleted: () => void;
}

/** @param prefix as in the list; its owner also sees whom it is shared with */
export function PrefixDetail({ session, comparison, prefix: listed, usage, onChanged, onDeleted }: DetailProps) {
  const { api } = session;
  const path = `/prefixes/${encodeURIComponent(listed.id)}`;
  const [prefix, setPrefix] = useState(listed);
  const [failed, setFailed] = useState<ApiError | null>(null);
  const [asks, setAsks] = useState(false);
  const begin = useTurns();
  useEffect(() => {
    const isNewest = begin();
    api.get<Prefix>(path).then(
      (read) => isNewest() && setPrefix(read),
      (error: unknown) => isNewest() && setFailed(asApiError(error)),
    );
  }, [path, listed.digest]);
  /** What the server has made of it, which no reading that began before may undo. */
  const adopt = (changed: Prefix): void => {
    begin();
    setPrefix(changed);
    onChanged();
  };
  const owned = prefix.access === "owner";
  const keyless = !api.keyed && !hasUsers(session);
  return (
    <aside class="panel" aria-labelledby="detail-title">
      <header>
        <h2 id="detail-title" class="mono cut">
          {prefix.id}
        </h2>
        <span class="tag">{prefix.kind}</span>
        <a class="btn end" href="#compare" onClick={() => comparison.show(prefix.id)}>
          Compare
        </a>
      </header>
      <div class="panel-body stack">
        {failed !== null && <Problem error={failed} />}
        <dl class="kv">
          <dt>Digest</dt>
          <dd>
            <code>{prefix.digest}</code> <CopyButton text={prefix.digest} />
          </dd>
          <dt>Size</dt>
          <dd>
            {plural(prefix.virtual_tokens, "virtual token")}, {size(prefix.bytes)} of keys and values
          </dd>
          {prefix.resident !== null && (
            <>
              <dt>Resident</dt>
              <dd>
                <Residency resident={prefix.resident} />
              </dd>
            </>
          )}
          <dt>Base</dt>
          <dd>{prefix.base_model_name_or_path ?? "not named"}</dd>
          <dt>Changed</dt>
          <dd>{date(prefix.updated_at)}</dd>
        </dl>
        {prefix.warnings.map(({ detail }) => (
          <p key={detail} class="small warn">
            {detail}
          </p>
        ))}
        <UsageBars rows={usage} title="Your requests a day" value={requestsOf} unit="request" />
        {prefix.access !== "use" && <Files session={session} prefix={prefix} />}
        {prefix.access !== "use" && <Versions session={session} prefix={prefix} onRestored={adopt} />}
        {owned && !keyless && prefix.shared_with !== undefined && (
          <Sharing
            prefix={prefix}
            owner={session.user}
            onChange={async (change) => {
              const changed = await api.send<Prefix>("PATCH", path, change);
              adopt(changed);
              return changed;
            }}
          />
        )}
        {owned && (
          <button type="button" class="btn danger start" aria-haspopup="dialog" onClick={() => setAsks(true)}>
            Delete…
          </button>
        )}
      </div>
      {asks && (
        <Confirm
          title={`Delete ${prefix.id}?`}
          name={prefix.id}
          action="Delete"
          doing="Deleting…"
          keep="Keep it"
          failure="It was not deleted."
          onConfirm={() => api.send("DELETE", path).then(onDeleted)}
          onClose={() => setAsks(false)}
        >
          <li>Requests that run with it end now, with finish reason “removed”.</li>
          <li>{othersLose(prefix)}</li>
          <li>
            Later requests get 404 <code>prefix_not_found</code>, never the bare model.
          </li>
          <li>It cannot be undone.</li>
        </Confirm>
      )}
    </aside>
  );
}

function othersLose({ visibility, shared_with = [], readable_by = [] }: Prefix): string {
  if (visibility === "shared") return "No other user can use it any more; all of them may now.";
  const others = [...new Set([...shared_with, ...readable_by])];
  return others.length === 0
    ? "It is shared with nobody."
    : `${others.slice(0, 5).join(", ")}${others.length > 5 ? " and others" : ""} can no longer use it.`;
}
