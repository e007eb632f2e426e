import { useEffect, useRef } from "preact/hooks";
import type { Receipt } from "../api.ts";
import { count, date, plural, size } from "../format.ts";
import { CopyButton } from "../ui.tsx";

export function ReceiptView({ receipt }: { receipt: Receipt }) {
  const { user, removed, replicas, completed_at } = receipt;
  const panel = useRef<HTMLElement>(null);
  useEffect(() => panel.current?.focus(), [receipt]);
  return (
    <section ref={panel} class="panel receipt" aria-labelledby="receipt-title" tabIndex={-1}>
      <header>
        <h2 id="receipt-title">
          <span class="mono">{user}</span> is removed
        </h2>
        <span class="small soft">{date(completed_at)}</span>
        <span class="end">
          <CopyButton text={JSON.stringify(receipt)} />
        </span>
      </header>
      <div class="panel-body two">
        <dl class="kv">
          <dt>Prefixes</dt>
          <dd>
            {count(removed.prefixes)}, {size(removed.bytes)}
          </dd>
          <dt>Keys</dt>
          <dd>{count(removed.keys)}</dd>
          <dt>Requests ended</dt>
          <dd>
            {count(removed.running)} running, {count(removed.queued)} waiting
          </dd>
          <dt>Training</dt>
          <dd>
            {plural(removed.training_jobs, "job")}, {plural(removed.training_files, "file")},{" "}
            {size(removed.training_bytes)}
          </dd>
        </dl>
        <dl class="kv">
          {replicas.map(({ id, acknowledged_at }) => (
            <>
              <dt class="mono">{id}</dt>
              <dd>
                {acknowledged_at === null ? (
                  <span class="warn">did not answer; its lease has run out</span>
                ) : (
                  `confirmed at ${acknowledged_at.slice(11, 23)}`
                )}
              </dd>
            </>
          ))}
        </dl>
      </div>
      <p class="panel-body small soft">Nothing of theirs is served any more. Backups and logs are yours to clean.</p>
    </section>
  );
}
