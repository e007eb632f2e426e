/*
 * Makes Node take this processor for an older one: whatever asks CPUID which instructions there are gets an answer without the newer ones.
 * Linux lets a process forbid itself CPUID (arch_prctl, ARCH_SET_CPUID); each use then ends in SIGSEGV, whose handler answers. Intel since
 * Ivy Bridge and newer AMD can do that ("cpuid_fault" in /proc/cpuinfo), in most virtual machines too. Libraries then run the kernels that
 * they would run there, at this processor's speed. libc alone has chosen its functions before.
 *
 * To be preloaded, with OLDER_PROCESSOR set to a name of `processors`; see ./with.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <cpuid.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { SSE4 = 1, AVX = 2, AVX2 = 4, AVX_VNNI = 8, AVX512 = 16, AVX512_VNNI = 32 };

static const struct {
  const char *name;
  unsigned processor;
} processors[] = {
    {"sse4", SSE4},         /* Nehalem, and the plainest virtual machines */
    {"avx", AVX},           /* Sandy Bridge */
    {"avx2", AVX2},         /* Haswell, Zen 1 to 3 */
    {"avx-vnni", AVX_VNNI}, /* Alder Lake */
    {"avx512", AVX512},     /* Skylake-X */
    {"avx512-vnni", AVX512_VNNI}, /* Cascade and Ice Lake, Zen 4 */
};

enum { A, B, C, D };
#define BIT(n) (1u << (n))

/* Which of them have which bits of CPUID's answers (Intel's manual, volume 2, CPUID). */
static const struct {
  unsigned leaf, subleaf, reg, bits, processors;
} features[] = {
    {1, 0, C, BIT(28) | BIT(29), ~SSE4},                   /* AVX, F16C */
    {1, 0, C, BIT(12), ~(SSE4 | AVX)},                     /* FMA */
    {7, 0, B, BIT(3) | BIT(5) | BIT(8), ~(SSE4 | AVX)},    /* BMI1, AVX2, BMI2 */
    {7, 0, B, BIT(16) | BIT(17) | BIT(28) | BIT(30) | BIT(31), AVX512 | AVX512_VNNI}, /* F, DQ, CD, BW, VL */
    {7, 0, B, BIT(21), AVX512_VNNI},                       /* IFMA */
    {7, 0, C, BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14), AVX512_VNNI}, /* VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ */
    {7, 0, D, BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25), 0}, /* of Xeon Phi, VP2INTERSECT, FP16, AMX */
    {7, 1, A, BIT(4), AVX_VNNI},                           /* AVX-VNNI */
    {7, 1, A, BIT(5) | BIT(21) | BIT(23), 0},              /* BF16, AMX-FP16, AVX-IFMA */
    {7, 1, D, BIT(4) | BIT(5) | BIT(10) | BIT(19), 0},     /* AVX-VNNI-INT8, AVX-NE-CONVERT, AVX-VNNI-INT16, AVX10 */
};
#define FEATURES (sizeof features / sizeof *features)

static unsigned processor;
static int (*set_action)(int, const struct sigaction *, struct sigaction *);
/* The process's own handler of SIGSEGV: V8 has one. */
static struct sigaction own;

static void allow_cpuid(int allowed) {
  if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, allowed) != 0) {
    fputs("older-processor: this machine cannot forbid CPUID\n", stderr);
    _exit(1);
  }
}

static void answer(greg_t *registers) {
  unsigned leaf = registers[REG_RAX], subleaf = registers[REG_RCX], out[4];
  allow_cpuid(1);
  __cpuid_count(leaf, subleaf, out[A], out[B], out[C], out[D]);
  allow_cpuid(0);
  for (size_t i = 0; i < FEATURES; i++)
    if (features[i].leaf == leaf && (leaf == 1 || features[i].subleaf == subleaf) && !(features[i].processors & processor))
      out[features[i].reg] &= ~features[i].bits;
  registers[REG_RAX] = out[A];
  registers[REG_RBX] = out[B];
  registers[REG_RCX] = out[C];
  registers[REG_RDX] = out[D];
  registers[REG_RIP] += 2; /* the instruction's length */
}

static void on_segv(int signal, siginfo_t *info, void *context) {
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  if (info->si_code == SI_KERNEL && memcmp((void *)registers[REG_RIP], "\x0f\xa2", 2) == 0) {
    answer(registers);
    return;
  }
  if (own.sa_flags & SA_SIGINFO) {
    own.sa_sigaction(signal, info, context);
    return;
  }
  if (own.sa_handler != SIG_DFL && own.sa_handler != SIG_IGN) {
    own.sa_handler(signal);
    return;
  }
  /* A fault happens again on return; a signal that was sent has to be. */
  struct sigaction fatal = {.sa_handler = SIG_DFL};
  set_action(SIGSEGV, &fatal, NULL);
  if (info->si_code <= 0) raise(SIGSEGV);
}

/* In libc's place: what the process wants of SIGSEGV is kept behind our handler. */
int sigaction(int signal, const struct sigaction *action, struct sigaction *before) {
  if (set_action == NULL) set_action = dlsym(RTLD_NEXT, "sigaction");
  if (signal != SIGSEGV || processor == 0) return set_action(signal, action, before);
  if (before != NULL) *before = own;
  if (action != NULL) own = *action;
  return 0;
}

static unsigned chosen(void) {
  const char *name = getenv("OLDER_PROCESSOR");
  for (size_t i = 0; name != NULL && i < sizeof processors / sizeof *processors; i++)
    if (strcmp(processors[i].name, name) == 0) return processors[i].processor;
  fprintf(stderr, "older-processor: OLDER_PROCESSOR=%s is none of those known\n", name == NULL ? "" : name);
  _exit(1);
}

/* Only Node: browsers and the like have sandboxes, and nothing to compute for us. */
__attribute__((constructor)) static void begin(void) {
  char program[4096];
  ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
  if (length < 5 || memcmp(program + length - 5, "/node", 5) != 0) return;
  if (set_action == NULL) set_action = dlsym(RTLD_NEXT, "sigaction");
  processor = chosen();
  struct sigaction ours = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
  set_action(SIGSEGV, &ours, &own);
  allow_cpuid(0);
}
