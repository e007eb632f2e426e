import { age, count, NONE } from "../format.ts";
import type { Live } from "./feed.ts";

interface QueueProps {
  readonly live: Live;
  /** Called with the user that is pointed at. */
  readonly onLight: (user: string | null) => void;
}

export function Queue({ live, onLight }: QueueProps) {
  const weights = live.users.reduce((sum, { weight }) => sum + weight, 0);
  return (
    <section class="panel" aria-labelledby="queue-title">
      <header>
        <h2 id="queue-title">Queue by user</h2>
        <span class="small soft end">
          {count(live.waiting)} of {count(live.max_queue)} wait
        </span>
      </header>
      {live.users.length === 0 ? (
        <p class="empty">Nobody runs or waits.</p>
      ) : (
        <div class="scroll">
          <table>
            <thead>
              <tr>
                <th scope="col">User</th>
                <th scope="col" class="num">
                  Weight
                </th>
                <th scope="col" class="num">
                  Rows
                </th>
                <th scope="col" class="wide">
                  Share
                </th>
                <th scope="col" class="num">
                  Wait
                </th>
                <th scope="col" class="num">
                  Oldest
                </th>
              </tr>
            </thead>
            <tbody>
              {live.users.map(({ user, weight, rows, waiting, oldest_ms }) => (
                <tr
                  key={user}
                  onMouseEnter={() => onLight(user)}
                  onMouseLeave={() => onLight(null)}
                  onFocusIn={() => onLight(user)}
                  onFocusOut={() => onLight(null)}
                >
                  <th scope="row">
                    <button type="button" class="link named" title={user}>
                      {user}
                    </button>
                  </th>
                  <td class="num soft">{weight}</td>
                  <td class="num">{rows}</td>
                  <td>
                    <Share had={rows / live.slots} due={weight / weights} />
                  </td>
                  <td class="num">{count(waiting)}</td>
                  <td class="num soft">{oldest_ms === null ? NONE : age(oldest_ms)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      <p class="panel-body small faint">
        The bar is the slots that a user has, the mark the share due by weight while all of these wait. Point at a user
        to see their rows.{live.more_users > 0 && ` ${count(live.more_users)} more users are not shown.`}
      </p>
    </section>
  );
}

function Share({ had, due }: { had: number; due: number }) {
  return (
    <span class="meter due" aria-hidden="true">
      <i style={{ width: `${100 * Math.min(1, had)}%` }} />
      <i class="mark-due" style={{ left: `${100 * due}%` }} />
    </span>
  );
}
