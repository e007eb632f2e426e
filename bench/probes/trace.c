// Injected by CUDA_INJECTION64_PATH: writes every kernel's, copy's and memset's start, end and name to TRACE_OUT.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cupti.h>

static FILE *out;

static void requested(uint8_t **buffer, size_t *size, size_t *records) {
  *size = 8 << 20;
  *records = 0;
  *buffer = aligned_alloc(64, *size);
}

static void completed(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
  CUpti_Activity *record = NULL;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      CUpti_ActivityKernel10 *kernel = (CUpti_ActivityKernel10 *)record;
      fprintf(out, "%llu %llu %d,%d,%d/%d %s\n", (unsigned long long)kernel->start, (unsigned long long)kernel->end, kernel->gridX, kernel->gridY, kernel->gridZ, kernel->blockX, kernel->name);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      CUpti_ActivityMemcpy6 *copy = (CUpti_ActivityMemcpy6 *)record;
      fprintf(out, "%llu %llu - memcpy%d:%llu\n", (unsigned long long)copy->start, (unsigned long long)copy->end, copy->copyKind, (unsigned long long)copy->bytes);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
      CUpti_ActivityMemset4 *set = (CUpti_ActivityMemset4 *)record;
      fprintf(out, "%llu %llu - memset:%llu\n", (unsigned long long)set->start, (unsigned long long)set->end, (unsigned long long)set->bytes);
    }
  }
  free(buffer);
}

static void finish(void) {
  cuptiActivityFlushAll(1);
  fflush(out);
}

int InitializeInjection(void) {
  out = fopen(getenv("TRACE_OUT"), "w");
  if (out == NULL) return 0;
  if (cuptiActivityRegisterCallbacks(requested, completed) != CUPTI_SUCCESS) { fprintf(stderr, "trace: no callbacks\n"); return 0; }
  CUpti_ActivityKind kinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET};
  for (int i = 0; i < 3; i++) if (cuptiActivityEnable(kinds[i]) != CUPTI_SUCCESS) fprintf(stderr, "trace: kind %d refused\n", kinds[i]);
  atexit(finish);
  fprintf(stderr, "trace: on\n");
  return 1;
}
