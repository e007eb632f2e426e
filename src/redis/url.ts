/** Parses a Redis URL. Strict: guessing at a malformed one could write into another database. */
import { isIP, isIPv6 } from "node:net";

export interface RedisNode {
  readonly host: string;
  readonly port: number;
}

/** Connection settings. username and password are absent if not given. */
export interface RedisAddress {
  readonly at: (RedisNode & { readonly tls: boolean }) | { readonly path: string };
  /** Further nodes of the Cluster, or further Sentinels; absent: none. */
  readonly others?: readonly RedisNode[];
  /** The name under which the Sentinels at these addresses know the primary; absent: the addresses are Redis' own. */
  readonly sentinel?: string;
  /** True if the address is a node of a Redis Cluster. */
  readonly cluster: boolean;
  readonly db: number;
  readonly username?: string;
  readonly password?: string;
}

/** `message` says what is wrong and never repeats any of the URL, which may contain a password anywhere. */
export class RedisUrlError extends Error {
  override readonly name = "RedisUrlError";
}

const DEFAULT_PORT = 6379;
const SENTINEL_PORT = 26379;
/** Redis numbers its databases with an int. */
const LARGEST_DB = 2 ** 31 - 1;

/**
 * RFC 3986's userinfo, without its colons: unreserved, sub-delims, or percent-encoded. No NUL, which no path may have.
 */
const ENCODED = /^(?:[\w.~!$&'()*+,;=-]|%(?!00)[0-9A-Fa-f]{2})*$/;
const HOST_NAME = /^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?$/;
const SENTINEL_NAME = /^[A-Za-z0-9_.-]{1,100}$/;
const NUMBER = /^(0|[1-9]\d{0,9})$/;

/**
 * `redis[s]://[user[:password]@]host[:port][,host[:port]...][/db][?cluster=true|?sentinel=NAME]` or
 * `unix://[user[:password]@]/path[?db=N]`, as in redis-cli and redis-py. User, password and path are percent-encoded; an IPv6 address is in brackets. Throws
 * RedisUrlError.
 */
export function parseRedisUrl(url: string): RedisAddress {
  const [, scheme, rest] = /^(rediss?|unix):\/\/(.*)$/s.exec(url) ?? [];
  if (scheme === undefined || rest === undefined)
    throw new RedisUrlError(
      "expected redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH?db=DB, in lower case",
    );
  const [, authority = "", path = "", query] = /^([^/?#]*)([^?#]*)(?:\?([^#]*))?/.exec(rest) ?? [];
  const at = authority.lastIndexOf("@");
  const [host, login] = [authority.slice(at + 1), at < 0 ? {} : parseLogin(authority.slice(0, at))];
  if (rest.includes("#") || (scheme !== "unix" && rest.indexOf("@", authority.length) >= 0)) throw notEncoded();
  if (scheme === "unix") return { ...login, ...parseSocket(host, path, query) };
  const { cluster, sentinel } = parseQuery(query);
  const [first, ...others] = host
    .split(",")
    .map((each) => parseHost(each, sentinel === undefined ? DEFAULT_PORT : SENTINEL_PORT));
  const address = {
    ...login,
    at: { ...first!, tls: scheme === "rediss" },
    ...(others.length === 0 ? {} : { others }),
    ...(sentinel === undefined ? {} : { sentinel }),
    db: parseDb(path === "" || path === "/" ? "0" : path.slice(1)),
    cluster,
  };
  if (others.length > 0 && !cluster && sentinel === undefined)
    throw new RedisUrlError("several hosts are for ?cluster=true, or Sentinels with ?sentinel=NAME");
  if (address.cluster && address.db !== 0) throw new RedisUrlError("a Redis Cluster has database 0 only");
  return address;
}

/** Replaces every login in such URLs with `***`. */
export const withoutPasswords = (text: string): string => text.replace(/((?:rediss?|unix):\/\/)[^@\s]*@/g, "$1***@");

function parseLogin(text: string): { username?: string; password: string } {
  const [user = "", password = "", ...more] = text.split(":");
  if (more.length > 0 || text.includes("@")) throw notEncoded();
  if (user === "" && password === "") throw new RedisUrlError("before the @ there is neither a user nor a password");
  // Without a user name the password is the default user's. With one, Redis always gets a password: "" for users that
  // need none.
  return { ...(user === "" ? {} : { username: decode(user) }), password: decode(password) };
}

function decode(text: string): string {
  if (!ENCODED.test(text)) throw notEncoded();
  try {
    return decodeURIComponent(text);
  } catch {
    throw new RedisUrlError("what is percent-encoded must be UTF-8");
  }
}

const notEncoded = (): RedisUrlError =>
  new RedisUrlError(
    "a user, password or path must be percent-encoded: @ is %40, : is %3A, / is %2F, # is %23, ? is %3F, % is %25, a space is %20",
  );

function parseHost(text: string, defaultPort: number): RedisNode {
  const [, bracketed, name, port] = /^(?:\[([^\]]*)\]|([^:[\]]*))(?::(.*))?$/s.exec(text) ?? [];
  const host = bracketed ?? name;
  if (host === "" && !/:.*:/.test(text)) throw new RedisUrlError("a host is missing (a Unix socket is unix:///PATH)");
  // Brackets are for IPv6; a host that looks like IPv4 must be valid IPv4.
  const valid =
    host !== undefined &&
    (bracketed === undefined
      ? HOST_NAME.test(host) && (!/^[\d.]+$/.test(host) || isIP(host) === 4)
      : isIPv6(host) && !host.includes("%"));
  if (!valid) throw new RedisUrlError("the host must be a name, an IPv4 address, or an IPv6 address in brackets");
  if (port !== undefined && !(NUMBER.test(port) && Number(port) >= 1 && Number(port) <= 65_535))
    throw new RedisUrlError("the port must be a whole number from 1 to 65535");
  return { host, port: port === undefined ? defaultPort : Number(port) };
}

function parseDb(text: string): number {
  if (!NUMBER.test(text) || Number(text) > LARGEST_DB)
    throw new RedisUrlError(`the database must be a whole number from 0 to ${LARGEST_DB}, and nothing may follow it`);
  return Number(text);
}

function parseQuery(query = "cluster=false"): { cluster: boolean; sentinel?: string } {
  const sentinel = /^sentinel=(.*)$/s.exec(query)?.[1];
  if (sentinel !== undefined) {
    if (!SENTINEL_NAME.test(sentinel))
      throw new RedisUrlError("the name after ?sentinel= has 1 to 100 characters out of A-Z, a-z, 0-9, dot, _ and -");
    return { cluster: false, sentinel };
  }
  if (query !== "cluster=true" && query !== "cluster=false")
    throw new RedisUrlError("the only parameter is ?cluster=true (or false) or ?sentinel=NAME");
  return { cluster: query === "cluster=true" };
}

function parseSocket(
  host: string,
  path: string,
  query: string | undefined,
): Omit<RedisAddress, "username" | "password"> {
  if (host !== "" || path === "" || path === "/")
    throw new RedisUrlError("a Unix socket is unix:///PATH, with the path from the root");
  const [, db] = /^db=(.*)$/s.exec(query ?? "db=0") ?? [];
  if (db === undefined) throw new RedisUrlError("the only parameter is ?db=DB");
  const decoded = path.split("/").map((part) => decode(part.replaceAll(/[:@]/g, encodeURIComponent)));
  return { at: { path: decoded.join("/") }, cluster: false, db: parseDb(db) };
}
