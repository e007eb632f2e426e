import { useEffect, useRef, useState } from "preact/hooks";
import { useTurns } from "../answers.ts";
import { asApiError, type ApiError, type Prefix } from "../api.ts";
import { count, date, NONE, plural } from "../format.ts";
import type { PageProps } from "../page-props.ts";
import { readUsage, requestsOf, type UsageRow } from "../usage.tsx";
import { MoreRows, Search, SHOWN } from "../search.tsx";
import { keepFocus, Note, Problem } from "../ui.tsx";
import { PrefixDetail } from "./detail.tsx";
import { Residency } from "./residency.tsx";
import { Upload } from "./upload.tsx";

const MAY: Readonly<Record<Prefix["access"], string>> = { owner: "yours", use: "you may use", read: "you may read" };

export function PrefixesPage({ session, comparison }: PageProps) {
  const [prefixes, setPrefixes] = useState<readonly Prefix[] | null>(null);
  const [failed, setFailed] = useState<ApiError | null>(null);
  const [usage, setUsage] = useState<readonly UsageRow[] | null>(null);
  const [stored, setStored] = useState<Prefix | null>(null);
  const [chosen, setChosen] = useState<string | null>(null);
  const [search, setSearch] = useState("");
  const title = useRef<HTMLHeadingElement>(null);
  const begin = useTurns();
  const load = (): void => {
    const isNewest = begin();
    session.api.list<Prefix>("/prefixes", "prefixes").then(
      (list) => {
        if (!isNewest()) return;
        setPrefixes(list);
        setFailed(null);
      },
      (error: unknown) => isNewest() && setFailed(asApiError(error)),
    );
  };
  useEffect(load, [session]);
  useEffect(() => {
    // The list stands without it.
    readUsage(session.api, "/usage").then(setUsage, () => undefined);
  }, [session]);
  const found = (prefixes ?? []).filter(({ id, digest }) => id.includes(search) || digest.startsWith(search));
  const selected = prefixes?.find(({ id }) => id === chosen);
  return (
    <>
      <div class="head">
        <h1>Prefixes</h1>
        <p>Yours and those shared with you. Another user's is written owner/name.</p>
      </div>
      <div class="split">
        <section class="stack" aria-label="All prefixes">
          <Upload
            session={session}
            prefixes={prefixes ?? []}
            onStored={(prefix) => {
              setStored(prefix);
              setChosen(prefix.id);
              load();
            }}
          />
          {stored !== null && (
            <Note tone="ok">
              <p>
                <strong>{stored.id} is stored</strong> as <code>{stored.digest.slice(0, 8)}</code>.
              </p>
              {stored.warnings.map(({ detail }) => (
                <p key={detail} class="soft">
                  {detail}
                </p>
              ))}
            </Note>
          )}
          {failed !== null && <Problem error={failed} />}
          <section class="panel" aria-labelledby="list-title">
            <header>
              <h2 ref={title} id="list-title" tabIndex={-1}>
                {prefixes === null ? "Prefixes" : plural(prefixes.length, "prefix", "prefixes")}
              </h2>
              <Search
                label="Search by name or digest"
                placeholder="Name or digest"
                value={search}
                onValue={setSearch}
              />
            </header>
            {prefixes !== null && found.length === 0 ? (
              <p class="empty">
                {prefixes.length === 0
                  ? "No prefixes yet. Drop a PEFT folder above, or train one from a JSONL file."
                  : `Nothing is called “${search}”. Search looks at names and at the first characters of digests.`}
              </p>
            ) : (
              <PrefixTable prefixes={found} usage={usage} chosen={chosen} onChoose={setChosen} />
            )}
          </section>
        </section>
        {selected !== undefined && (
          <PrefixDetail
            key={selected.id}
            session={session}
            comparison={comparison}
            prefix={selected}
            usage={usedOf(selected, usage ?? [])}
            onChanged={load}
            onDeleted={() => {
              setChosen(null);
              setStored((stored) => (stored?.id === selected.id ? null : stored));
              load();
              keepFocus(() => title.current);
            }}
          />
        )}
      </div>
    </>
  );
}

/**
 * The caller's own use of a prefix. Usage knows a prefix by its name alone: one of the caller's own may be called as
 * another's that is shared.
 */
const usedOf = ({ id }: Prefix, rows: readonly UsageRow[]): UsageRow[] =>
  rows.filter(({ prefix }) => prefix === id.slice(id.indexOf("/") + 1));

interface TableProps {
  readonly prefixes: readonly Prefix[];
  /** null: not known. */
  readonly usage: readonly UsageRow[] | null;
  readonly chosen: string | null;
  readonly onChoose: (id: string) => void;
}

function PrefixTable({ prefixes, usage, chosen, onChoose }: TableProps) {
  const requests = new Map<string | null, number>();
  for (const row of usage ?? []) requests.set(row.prefix, (requests.get(row.prefix) ?? 0) + requestsOf(row));
  return (
    <div class="scroll">
      <table class="pick">
        <thead>
          <tr>
            <th scope="col">Name</th>
            <th scope="col" class="opt">
              Kind
            </th>
            <th scope="col" class="num">
              Tokens
            </th>
            <th scope="col">Shared</th>
            <th scope="col" class="opt">
              Resident
            </th>
            <th scope="col" class="num opt">
              Requests, 31 d
            </th>
            <th scope="col" class="opt">
              Changed
            </th>
          </tr>
        </thead>
        <tbody>
          {prefixes.slice(0, SHOWN).map(({ id, kind, virtual_tokens, access, visibility, resident, updated_at }) => (
            <tr key={id} class={id === chosen ? "on" : ""}>
              <th scope="row">
                <button type="button" class="link" aria-current={id === chosen} onClick={() => onChoose(id)}>
                  {id}
                </button>
              </th>
              <td class="small soft opt">{kind}</td>
              <td class="num">{count(virtual_tokens)}</td>
              <td>{access === "owner" ? (visibility === "shared" ? "all users" : "named users only") : MAY[access]}</td>
              <td class="opt">{resident === null ? NONE : <Residency resident={resident} />}</td>
              <td class="num opt">{usage === null ? NONE : count(requests.get(id.slice(id.indexOf("/") + 1)) ?? 0)}</td>
              <td class="soft opt">{date(updated_at)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <MoreRows length={prefixes.length} />
    </div>
  );
}
