/** The prefix that a request names: its key, noted for the logs. */
import type { FastifyRequest } from "fastify";
import { PrefixdError } from "../../errors.ts";
import type { Precondition, PrefixKey } from "../../prefixes/store.ts";
import type { AppParts } from "../app-parts.ts";
import { prefixIdOf } from "./id.ts";

/** Notes which prefix a request is about; returns its key. */
export function noted(request: FastifyRequest, key: PrefixKey): PrefixKey {
  request.audit.prefix_id = prefixIdOf(key, request.principal.user);
  return key;
}

/**
 * The same for a change, which only the owner may make. Throws `prefix_not_owned` for those who may use the prefix; for
 * others it does not exist.
 */
export async function notedForChange(
  request: FastifyRequest,
  key: PrefixKey,
  prefixes: Pick<AppParts["prefixes"], "info">,
): Promise<PrefixKey> {
  noted(request, key);
  request.audit.target = `${key.user}/${key.name}`;
  if (key.user === request.principal.user) return key;
  await prefixes.info(key, request.principal.user);
  throw new PrefixdError("prefix_not_owned", `Only the owner, ${key.user}, may change this prefix.`);
}

/** Who makes a change, as the list of versions names them: the key's id, or the user of a request without one. */
export function actorOf({ principal }: FastifyRequest): string {
  return principal.keyId ?? principal.user;
}

/** Removes a prefix. When this resolves, no request uses it any more. */
export async function removePrefix(
  { prefixes, generation }: Pick<AppParts, "prefixes" | "generation">,
  key: PrefixKey,
  precondition?: Precondition,
): Promise<void> {
  await prefixes.remove(key, precondition);
  await generation.endRequestsOf(key);
}
