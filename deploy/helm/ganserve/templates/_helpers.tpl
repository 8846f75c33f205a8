{{/* The release's own name: the chart's where the release is called like it. */}}
{{- define "ganserve.name" -}}
{{- .Release.Name | contains .Chart.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* What every object is labelled with. Takes (dict "root" $ "component" "server"). */}}
{{- define "ganserve.labels" -}}
{{ include "ganserve.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* What the pods of one component are found by. */}}
{{- define "ganserve.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* metadata of an object: (dict "root" $ "component" "server" "name" "x" "annotations" (dict)). */}}
{{- define "ganserve.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "ganserve.labels" . | nindent 2 }}
{{- with .annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* An image by digest where there is one, else by tag. */}}
{{- define "ganserve.image" -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}

{{/* Command line options from a map: a list repeats its option, true is a flag, false leaves it out. */}}
{{- define "ganserve.options" -}}
{{- range $name, $value := . }}
{{- if kindIs "bool" $value }}
{{- if $value }}
- {{ printf "--%s" $name | quote }}
{{- end }}
{{- else }}
{{- range (kindIs "slice" $value | ternary $value (list $value)) }}
- {{ printf "--%s=%s" $name (include "ganserve.plain" .) | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* A value in plain writing: helm reads large whole numbers as floats, and would write 1e+09. */}}
{{- define "ganserve.plain" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ printf "%.0f" . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/* securityContext of a pod. */}}
{{- define "ganserve.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.securityContext.user }}
runAsGroup: {{ .Values.securityContext.user }}
fsGroup: {{ .Values.securityContext.user }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* securityContext of a container. */}}
{{- define "ganserve.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Resources with GPUs: (dict "resources" r "gpus" n "resource" "nvidia.com/gpu"). */}}
{{- define "ganserve.resources" -}}
{{- $resources := deepCopy .resources }}
{{- if .gpus }}
{{- $_ := set $resources "limits" (merge (dict .resource .gpus) ($resources.limits | default dict)) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/* The volume called bundles, and the init container that fills it from an image. */}}
{{- define "ganserve.bundlesVolume" -}}
- name: bundles
{{- if eq .Values.bundles.from "image" }}
  emptyDir: {}
{{- else }}
  persistentVolumeClaim:
    claimName: {{ .Values.bundles.claim.existing | default (printf "%s-bundles" (include "ganserve.name" .)) }}
    readOnly: true
{{- end }}
{{- end }}
{{- define "ganserve.bundlesMount" -}}
- name: bundles
  mountPath: {{ .Values.bundles.path }}
  readOnly: true
  {{- if and (eq .Values.bundles.from "claim") .Values.bundles.claim.subPath }}
  subPath: {{ .Values.bundles.claim.subPath }}
  {{- end }}
{{- end }}
{{- define "ganserve.bundlesInit" -}}
{{- if eq .Values.bundles.from "image" }}
initContainers:
  - name: bundles
    image: {{ include "ganserve.image" .Values.bundles.image }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    command: [cp, -R, {{ printf "%s/." .Values.bundles.image.path | quote }}, /target]
    securityContext:
      {{- include "ganserve.containerSecurity" . | nindent 6 }}
    resources:
      requests: {cpu: 100m, memory: 64Mi}
      limits: {cpu: "1", memory: 256Mi}
    volumeMounts:
      - {name: bundles, mountPath: /target}
{{- end }}
{{- end }}

{{/* Whom a probe asks: (dict "root" $ "tls" bool "path" "/ready"). The kubelet's gRPC speaks no TLS. */}}
{{- define "ganserve.probe" -}}
{{- if .tls -}}
httpGet: {port: {{ .root.Values.metrics.port }}, path: {{ .path }}}
{{- else -}}
grpc: {port: {{ .root.Values.service.port }}}
{{- end }}
{{- end }}

{{/* The secrets that the server reads, as a list of their volumes' names and their own. */}}
{{- define "ganserve.secrets" -}}
{{- range $name, $secret := dict "tls" .Values.tls.secretName "clients" .Values.tls.clientCa.secretName "tokens" .Values.tokens.secretName }}
{{- if $secret }}
- {name: {{ $name }}, secret: {{ $secret }}}
{{- end }}
{{- end }}
{{- end }}

{{/* Where pods of any kind run. */}}
{{- define "ganserve.placement" -}}
{{- with .Values.gpu.runtimeClass }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.priorityClass }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Why checkov's rules are not kept, where they are not: (dict "resources" r "image" i). */}}
{{- define "ganserve.skips" -}}
checkov.io/skip1: "CKV_K8S_15=Tags are not moved and digests cannot be: an image that is there need not be asked for"
{{- if not (dig "limits" "cpu" "" .resources) }}
checkov.io/skip2: "CKV_K8S_11=A CPU quota stops every thread of a batch at once, which shows as latency; --threads bounds what an engine takes"
{{- end }}
{{- if not .image.digest }}
checkov.io/skip3: "CKV_K8S_43=No digest was given: set it in production"
{{- end }}
{{- end }}
