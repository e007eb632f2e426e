/** Creates users with a key each and removes every second of them, and says so after each answer; the test kills it in the middle. */
import { openLmdbUserStore } from "../../src/lmdb/user-store.ts";
import { apiKey, user } from "../contract/user-store.ts";

const [dir = "", round = ""] = process.argv.slice(2);
const store = await openLmdbUserStore({ dir });
process.stdout.write("ready\n");
for (let i = 0; i < 100; i++) {
  for (const id of [`u${round}-${i}`, `u${round}-${i}-doomed`]) {
    await store.createUser(user(id));
    process.stdout.write(`created ${id}\n`);
    await store.putKey(apiKey(id));
    process.stdout.write(`key ${id}\n`);
  }
  await store.deleteUser(`u${round}-${i}-doomed`, { keepUsage: false });
  process.stdout.write(`removed u${round}-${i}-doomed\n`);
}
await store.close();
