import { useEffect, useState } from "preact/hooks";
import { useTurns } from "../answers.ts";
import { asApiError, type ApiError, type Receipt, type User } from "../api.ts";
import { count, date, NONE, plural } from "../format.ts";
import type { PageProps } from "../page-props.ts";
import { MoreRows, Search, SHOWN } from "../search.tsx";
import { Problem } from "../ui.tsx";
import { UserDetailView } from "./detail.tsx";
import { NewUserDialog } from "./new-user.tsx";
import { ReceiptView } from "./receipt.tsx";

export function UsersPage({ session }: PageProps) {
  const [users, setUsers] = useState<readonly User[] | null>(null);
  const [failed, setFailed] = useState<ApiError | null>(null);
  const [receipt, setReceipt] = useState<Receipt | null>(null);
  const [chosen, setChosen] = useState<string | null>(null);
  const [creates, setCreates] = useState(false);
  const [search, setSearch] = useState("");
  const begin = useTurns();
  const load = (): void => {
    const isNewest = begin();
    session.api.list<User>("/admin/users", "users").then(
      (list) => {
        if (!isNewest()) return;
        setUsers(list);
        setFailed(null);
      },
      (error: unknown) => isNewest() && setFailed(asApiError(error)),
    );
  };
  useEffect(load, [session]);
  const found = (users ?? []).filter(({ id }) => id.includes(search));
  return (
    <>
      <div class="head row">
        <div>
          <h1>Users</h1>
          <p>Who may ask, how much, and with which keys. Shares are by weight among those who wait.</p>
        </div>
        <button type="button" class="btn main end" aria-haspopup="dialog" onClick={() => setCreates(true)}>
          New user
        </button>
      </div>
      {failed !== null && <Problem error={failed} />}
      {receipt !== null && <ReceiptView receipt={receipt} />}
      <div class="split">
        <section class="panel" aria-labelledby="users-title">
          <header>
            <h2 id="users-title">{users === null ? "Users" : plural(users.length, "user")}</h2>
            <Search label="Search users" placeholder="User id" value={search} onValue={setSearch} />
          </header>
          {users !== null && found.length === 0 ? (
            <p class="empty">{users.length === 0 ? "No users yet." : `Nobody is called “${search}”.`}</p>
          ) : (
            <div class="scroll">
              <table class="pick">
                <thead>
                  <tr>
                    <th scope="col">User</th>
                    <th scope="col">State</th>
                    <th scope="col" class="num">
                      Weight
                    </th>
                    <th scope="col" class="num opt">
                      Tokens a minute
                    </th>
                    <th scope="col" class="opt">
                      Created
                    </th>
                  </tr>
                </thead>
                <tbody>
                  {found.slice(0, SHOWN).map(({ id, weight, limits, suspended, created_at }) => (
                    <tr key={id} class={id === chosen ? "on" : ""}>
                      <th scope="row">
                        <button type="button" class="link" aria-current={id === chosen} onClick={() => setChosen(id)}>
                          {id}
                        </button>
                      </th>
                      <td>
                        <span class="chip">
                          <i class={suspended ? "dot" : "dot ok"} />
                          {suspended ? "suspended" : "active"}
                        </span>
                      </td>
                      <td class="num">{weight}</td>
                      <td class="num opt">
                        {limits.tokens_per_minute === null ? NONE : `at most ${count(limits.tokens_per_minute)}`}
                      </td>
                      <td class="soft opt">{date(created_at)}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
              <MoreRows length={found.length} />
            </div>
          )}
        </section>
        {chosen !== null && (
          <UserDetailView
            key={chosen}
            session={session}
            id={chosen}
            onChanged={load}
            onRemoved={(removed) => {
              setReceipt(removed);
              setChosen(null);
              load();
            }}
          />
        )}
      </div>
      {creates && (
        <NewUserDialog
          session={session}
          onClose={() => setCreates(false)}
          onCreated={(id) => {
            setCreates(false);
            setChosen(id);
            load();
          }}
        />
      )}
    </>
  );
}
