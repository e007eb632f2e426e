/**
 * For `node --import`, before what tap imports: it notes no modules. Tap would read each with its source map, a fifth of what a test
 * file's start takes, for options that are not used here (coverage, --changed); it lets no other setting exclude them.
 */
process.env._TAPJS_PROCESSINFO_EXCLUDE_ = "/./";
