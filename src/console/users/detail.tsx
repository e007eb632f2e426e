import { useEffect, useState } from "preact/hooks";
import { useAction, useTurns } from "../answers.ts";
import { asApiError, type ApiError, type Receipt, type UserDetail } from "../api.ts";
import { count, plural, size } from "../format.ts";
import type { Session } from "../session.ts";
import { Confirm, Note, Problem } from "../ui.tsx";
import { readUsage, tokensOf, UsageBars, UsageByPrefix, type UsageRow } from "../usage.tsx";
import { Keys } from "./keys.tsx";
import { LimitsForm } from "./limits-form.tsx";
import { Suspension } from "./suspension.tsx";

interface UserProps {
  readonly session: Session;
  readonly id: string;
  readonly onChanged: () => void;
  readonly onRemoved: (receipt: Receipt) => void;
}

export function UserDetailView({ session, id, onChanged, onRemoved }: UserProps) {
  const { api } = session;
  const path = `/admin/users/${encodeURIComponent(id)}`;
  const [user, setUser] = useState<UserDetail | null>(null);
  const [failed, setFailed] = useState<ApiError | null>(null);
  const [usage, setUsage] = useState<readonly UsageRow[]>([]);
  const [asks, setAsks] = useState(false);
  const begin = useTurns();
  const load = async (): Promise<void> => {
    const isNewest = begin();
    try {
      const [found, rows] = await Promise.all([api.get<UserDetail>(path), readUsage(api, `${path}/usage`)]);
      if (!isNewest()) return;
      setUser(found);
      setUsage(rows);
      setFailed(null);
    } catch (error) {
      if (isNewest()) setFailed(asApiError(error));
    }
  };
  useEffect(() => void load(), [path]);
  const patch = async (change: object): Promise<void> => {
    await api.send("PATCH", path, change);
    await load();
    onChanged();
  };
  const resumption = useAction();
  return (
    <aside class="panel" aria-labelledby="user-title">
      <header>
        <h2 id="user-title" class="mono cut">
          {id}
        </h2>
        {user !== null && (
          <Suspension
            user={user}
            suspend={() => patch({ suspended: true })}
            resume={() => resumption.act(() => patch({ suspended: false }))}
          />
        )}
        <button
          type="button"
          class={user === null ? "btn danger end" : "btn danger"}
          aria-haspopup="dialog"
          onClick={() => setAsks(true)}
        >
          Remove…
        </button>
      </header>
      <div class="panel-body stack">
        {failed !== null && <Problem error={failed} />}
        {resumption.failed !== null && <Problem error={resumption.failed} />}
        {user !== null && (
          <>
            {user.suspended && (
              <Note tone="warn">
                The server refuses {id}'s keys until you resume. Keys, prefixes and usage are as they were; prefixes
                that {id} shares still serve others.
              </Note>
            )}
            <Keys session={session} path={path} user={user} onChanged={load} />
            <LimitsForm user={user} onSave={patch} />
            <section class="line-top stack" aria-label="Usage">
              <h3>The last 31 days</h3>
              <dl class="kv">
                <dt>Requests</dt>
                <dd>{count(user.usage.requests)}</dd>
                <dt>Tokens</dt>
                <dd>
                  {count(user.usage.prompt_tokens)} of prompts, {count(user.usage.completion_tokens)} generated
                </dd>
                <dt>Prefixes</dt>
                <dd>
                  {plural(user.prefixes.count, "prefix", "prefixes")}, {size(user.prefixes.bytes)}
                </dd>
              </dl>
              <UsageBars rows={usage} title="Tokens a day" value={tokensOf} unit="token" />
              <UsageByPrefix rows={usage} />
            </section>
          </>
        )}
      </div>
      {asks && (
        <Confirm
          title={`Remove ${id} for good?`}
          name={id}
          action="Remove"
          doing="Removing…"
          keep={`Keep ${id}`}
          failure={`The removal of ${id} is not finished. Repeat it until it ends.`}
          onConfirm={() => api.send<Receipt>("DELETE", path).then(onRemoved)}
          onClose={() => setAsks(false)}
        >
          {user !== null && (
            <li>
              {plural(user.prefixes.count, "prefix", "prefixes")} and {plural(user.keys.length, "key")} are erased.
            </li>
          )}
          <li>Their running and waiting requests end, on all replicas; so do others' with their prefixes.</li>
          <li>It ends when every replica has confirmed; then you get a receipt.</li>
          <li>It cannot be undone.</li>
        </Confirm>
      )}
    </aside>
  );
}
