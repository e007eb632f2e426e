import { isIP } from "node:net";
import { hostname } from "node:os";
import Type from "typebox";

/** Settings for the person on duty: who may administer the server, what it records, and by which name. */
export const OPERATION_SETTINGS = {
  adminKeyFile: Type.String({
    arg: "FILE",
    default: "",
    shown: "none",
    description:
      "File with an admin key of at least 32 characters on each line; every request then needs a key. Read again when it changes. Or set PREFIXD_ADMIN_KEY to one key itself",
  }),
  auditLog: Type.String({
    arg: "FILE",
    default: "",
    shown: "the ordinary log",
    description: "File that gets a JSON line for each action on users, keys and prefixes",
  }),
  replicaName: Type.String({
    arg: "NAME",
    shown: "the host's name and the port",
    description: "This server's name in its logs, metrics, audit log and the receipts of removals",
  }),
  trustedProxies: Type.String({
    arg: "ADDR,...",
    default: "",
    shown: "none",
    description:
      "Addresses or networks of load balancers, such as 10.0.0.0/8, whose X-Forwarded-For tells the client's address in the audit log",
  }),
  httpWorkers: Type.Integer({
    minimum: 0,
    maximum: 64,
    arg: "N",
    default: 0,
    description:
      "Processes that hold the clients' connections for this one; of use where a GPU makes more tokens than one core can write, with cores to spare",
  }),
};

const REPLICA_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/;

/** What texts these settings take, beyond their types. */
export const OPERATION_CHECKS: Readonly<
  Record<string, { readonly is: (text: string) => boolean; readonly expected: string } | undefined>
> = {
  replicaName: {
    is: (text) => REPLICA_NAME.test(text),
    expected: "1 to 100 characters out of A-Z, a-z, 0-9, dot, underscore and hyphen, the first a letter or a digit",
  },
  trustedProxies: {
    is: (text) => text.split(",").every(isNetwork),
    expected: "IP addresses or networks separated by commas, such as 127.0.0.1,10.0.0.0/8",
  },
};

/** The same after a restart; replicas on one host differ by port. With port 0, which changes, by process id. */
export function defaultReplicaName(port: number): string {
  const host = hostname().replaceAll(/[^A-Za-z0-9._-]/g, "-");
  const name = `${host.slice(0, 80)}-${port === 0 ? process.pid : port}`;
  return REPLICA_NAME.test(name) ? name : `prefixd-${name}`;
}

function isNetwork(text: string): boolean {
  const [address = "", bits, ...more] = text.split("/");
  const family = isIP(address);
  if (family === 0 || more.length > 0) return false;
  return bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= (family === 4 ? 32 : 128));
}
