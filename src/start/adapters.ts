import { join } from "node:path";
import { PrefixdError } from "../errors.ts";
import type { Logger } from "../observability/logging.ts";
import type { WeightsOptions } from "../prefixes/adapter-weights.ts";
import { baseNameDiffers } from "../prefixes/base-name.ts";
import { adapterFolders, readAdapterFolder } from "../prefixes/folder.ts";
import type { PrefixRegistry } from "../prefixes/registry-types.ts";
import { ADMIN_USER, LOCAL_USER } from "../users/user-id.ts";

export interface AdaptersOptions {
  /** `--prefixes` */
  readonly dir: string;
  /** Whether requests need keys. */
  readonly keyed: boolean;
  readonly modelName: string;
  readonly weights: WeightsOptions;
  readonly logger: Logger;
}

/**
 * Registers each sub-folder as a prefix of its name; one already stored with the same content stays as it is. When keys
 * are on, the admin owns these prefixes and shares them with everyone as `admin/name`.
 * @throws PrefixdError for a folder that cannot be registered; the message names it
 */
export async function registerAdapters(
  registry: PrefixRegistry,
  { dir, keyed, modelName, weights, logger }: AdaptersOptions,
): Promise<void> {
  const user = keyed ? ADMIN_USER : LOCAL_USER;
  const { names, leftOut } = await adapterFolders(dir);
  for (const { name, reason, level } of leftOut)
    logger[level]({ path: join(dir, name), reason }, "left out of --prefixes");
  for (const name of names) {
    const path = join(dir, name);
    const registered = await readAdapterFolder(path, weights)
      .then((upload) => registry.register({ user, name }, upload))
      .catch((error: unknown) => {
        // Skip it rather than fail: an earlier version without this check may have served the folder.
        if (error instanceof PrefixdError && error.code === "prefix_overflows") {
          logger.error({ path, reason: error.message }, "left out of --prefixes");
          return null;
        }
        throw error instanceof PrefixdError && error.status < 500 && !error.message.includes(path)
          ? new PrefixdError(error.code, `${path}: ${error.message}`, { cause: error })
          : error;
      });
    if (registered === null) continue;
    const { meta, created } = registered;
    if (keyed) await registry.patch({ user, name }, { visibility: "shared" });
    logger.info({ prefix: name, digest: meta.digest, virtual_tokens: meta.length, created }, "registered");
    const mismatch = baseNameDiffers(meta.baseName, modelName);
    if (mismatch !== null) logger.warn({ prefix: name, base_model_name_or_path: meta.baseName }, mismatch);
  }
}
