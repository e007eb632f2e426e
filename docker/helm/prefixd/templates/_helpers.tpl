{{- define "prefixd.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "prefixd.selector" -}}
app.kubernetes.io/name: prefixd
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "prefixd.labels" -}}
{{ include "prefixd.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "prefixd.adminSecret" -}}
{{ .Values.adminKey.existingSecret | default (printf "%s-admin-key" (include "prefixd.name" .)) }}
{{- end }}

{{/* Labels of this release's series in Prometheus: two releases may share a namespace. */}}
{{- define "prefixd.series" -}}
{{ .Values.autoscaling.keda.series | default (printf `namespace="%s", app_kubernetes_io_instance="%s"` .Release.Namespace .Release.Name) }}
{{- end }}

{{/* What values.schema.json cannot say. */}}
{{- define "prefixd.check" -}}
{{- if and (eq .Values.store.kind "redis") (not .Values.store.redis.url) (not .Values.store.redis.existingSecret) }}
{{- fail "store.kind redis: set store.redis.url or store.redis.existingSecret" }}
{{- end }}
{{- if regexMatch "^[^/?#]*//[^/?#]*:[^/?#]*@" .Values.store.redis.url }}
{{- fail "store.redis.url has a password, which everybody who may look at pods could read: put the URL into a Secret, and name it in store.redis.existingSecret" }}
{{- end }}
{{- if and (eq .Values.store.kind "lmdb") (ne .Values.autoscaling.kind "none") }}
{{- fail "autoscaling: an lmdb store belongs to one pod; take store.kind redis" }}
{{- end }}
{{- if and .Values.metrics.prefixIds (not .Values.metrics.vllmNames) }}
{{- fail "metrics.prefixIds: only metrics.vllmNames names prefixes" }}
{{- end }}
{{- if eq (int .Values.metrics.port) 8080 }}
{{- fail "metrics.port: 8080 is the API's" }}
{{- end }}
{{- if and (eq .Values.autoscaling.kind "keda") (not .Values.metrics.podMonitor.enabled) (not .Values.autoscaling.keda.series) }}
{{- fail "autoscaling.kind keda: set metrics.podMonitor.enabled, or name the labels of this release's series in autoscaling.keda.series" }}
{{- end }}
{{- if and .Values.metrics.podMonitor.enabled .Values.networkPolicy.enabled (not .Values.networkPolicy.metricsFrom) }}
{{- fail "networkPolicy.metricsFrom is empty, so nobody may scrape what metrics.podMonitor names: add Prometheus' namespace or pods" }}
{{- end }}
{{- if and (eq .Values.autoscaling.kind "hpa") (or .Values.training (gt (int .Values.gpu.count) 0)) }}
{{- fail "autoscaling.kind hpa goes by the processor, which training fills and a GPU leaves idle; take keda" }}
{{- end }}
{{- if and (eq (toString .Values.rollout.maxSurge) "0") (eq (toString .Values.rollout.maxUnavailable) "0") }}
{{- fail "rollout: maxSurge and maxUnavailable are both 0, so no pod could be replaced" }}
{{- end }}
{{- if or (hasKey .Values.podLabels "app.kubernetes.io/name") (hasKey .Values.podLabels "app.kubernetes.io/instance") }}
{{- fail "podLabels: app.kubernetes.io/name and app.kubernetes.io/instance are the chart's, whose selectors ask for them" }}
{{- end }}
{{- if gt (int .Values.autoscaling.min) (int .Values.autoscaling.max) }}
{{- fail "autoscaling: min is above max" }}
{{- end }}
{{- end }}

{{- define "prefixd.pod" -}}
metadata:
  labels:
    {{- include "prefixd.selector" . | nindent 4 }}
    {{- if .Values.metrics.vllmNames }}
    llm-d.ai/engine-type: vllm
    {{- end }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  # A Service named prefixd would otherwise set PREFIXD_PORT=tcp://... in every pod.
  enableServiceLinks: false
  automountServiceAccountToken: false
  # The drain, and some seconds to close and to export traces.
  terminationGracePeriodSeconds: {{ add (int .Values.drain.delay) (int .Values.drain.timeout) 15 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 1000
    runAsGroup: 1000
    fsGroup: 1000
    # Not at each start: a store has some files for every user.
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: { type: RuntimeDefault }
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: prefixd
      image: {{ printf "%s:%s" .Values.image.repository .Values.image.tag | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - serve
        - --drain-delay={{ .Values.drain.delay }}
        - --drain-timeout={{ .Values.drain.timeout }}
        - --admin-port={{ .Values.metrics.port }}
        - --admin-host=0.0.0.0
        {{- if .Values.metrics.vllmNames }}
        - --metrics-compat=vllm
        {{- end }}
        {{- if .Values.metrics.prefixIds }}
        - --metrics-prefix-ids
        {{- end }}
        {{- if .Values.training }}
        - --training=on
        {{- end }}
        {{- if not .Values.console }}
        - --console=off
        {{- end }}
        {{- if .Values.httpWorkers }}
        - --http-workers={{ .Values.httpWorkers }}
        {{- end }}
        {{- with .Values.extraArgs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      env:
        - { name: PREFIXD_ADMIN_KEY_FILE, value: /run/secrets/prefixd/admin.key }
        {{- if .Values.model }}
        - { name: PREFIXD_MODEL, value: {{ .Values.model | quote }} }
        # The demo's adapters fit only the demo.
        - { name: PREFIXD_PREFIXES, value: "" }
        {{- end }}
        {{- if eq .Values.store.kind "lmdb" }}
        - { name: PREFIXD_STORE, value: "lmdb:/data" }
        {{- else if .Values.store.redis.existingSecret }}
        - name: PREFIXD_STORE
          valueFrom: { secretKeyRef: { name: {{ .Values.store.redis.existingSecret | quote }}, key: {{ .Values.store.redis.secretKey | quote }} } }
        {{- else }}
        - { name: PREFIXD_STORE, value: {{ .Values.store.redis.url | quote }} }
        {{- end }}
        {{- if .Values.otlpEndpoint }}
        - { name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .Values.otlpEndpoint | quote }} }
        - { name: POD_NAME, valueFrom: { fieldRef: { fieldPath: metadata.name } } }
        - { name: OTEL_RESOURCE_ATTRIBUTES, value: "service.instance.id=$(POD_NAME)" }
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - { name: http, containerPort: 8080 }
        - { name: metrics, containerPort: {{ .Values.metrics.port }} }
      # Loading, a download from the hub included, may take ten minutes.
      startupProbe: { httpGet: { path: /health/live, port: http }, periodSeconds: 5, failureThreshold: 120 }
      livenessProbe: { httpGet: { path: /health/live, port: http }, periodSeconds: 10, timeoutSeconds: 5 }
      readinessProbe: { httpGet: { path: /health/ready, port: http }, periodSeconds: 2, timeoutSeconds: 3 }
      resources:
        {{- $resources := deepCopy .Values.resources }}
        {{- if gt (int .Values.gpu.count) 0 }}
        {{- $limits := merge (dict .Values.gpu.resource (toString .Values.gpu.count)) (default (dict) $resources.limits) }}
        {{- $resources = set $resources "limits" $limits }}
        {{- end }}
        {{- toYaml $resources | nindent 8 }}
      securityContext: { readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: { drop: [ALL] } }
      volumeMounts:
        - { name: admin-key, mountPath: /run/secrets/prefixd, readOnly: true }
        - { name: cache, mountPath: /cache }
        - { name: data, mountPath: /data }
        - { name: tmp, mountPath: /tmp }
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: admin-key
      secret:
        secretName: {{ include "prefixd.adminSecret" . }}
        defaultMode: 0440
        items: [{ key: {{ .Values.adminKey.existingSecret | empty | ternary "admin.key" .Values.adminKey.secretKey | quote }}, path: admin.key }]
    - { name: cache, emptyDir: {} }
    - { name: tmp, emptyDir: { medium: Memory, sizeLimit: 64Mi } }
    {{- if ne .Values.store.kind "lmdb" }}
    - { name: data, emptyDir: {} }
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- range $field := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
  {{- with index $.Values $field }}
  {{ $field }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
{{- end }}
