{{- define "aqueduct.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 36 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* A model's name as a part of Kubernetes' names: readable where it can be, and never another's. */ -}}
{{- define "aqueduct.slug" -}}
{{- $plain := regexReplaceAll "[^a-z0-9]+" (lower .) "-" | trimAll "-" -}}
{{- if and (eq $plain .) (le (len .) 40) -}}
{{- . -}}
{{- else -}}
{{- printf "%s-%s" ($plain | trunc 31 | trimSuffix "-" | default "model") (sha256sum . | trunc 8) -}}
{{- end -}}
{{- end -}}

{{- /* A model's workers: short enough that a pod's name is its host's name too, which is cut after 63. */ -}}
{{- define "aqueduct.workerName" -}}
{{- $name := printf "%s-worker-%s" (include "aqueduct.fullname" .root) (include "aqueduct.slug" .name) -}}
{{- if le (len $name) 46 -}}
{{- $name -}}
{{- else -}}
{{- printf "%s-%s" ($name | trunc 37 | trimSuffix "-") (sha256sum .name | trunc 8) -}}
{{- end -}}
{{- end -}}

{{- define "aqueduct.modelSecret" -}}
{{- $name := printf "%s-model-%s" (include "aqueduct.fullname" .root) (include "aqueduct.slug" .name) -}}
{{- if le (len $name) 63 -}}
{{- $name -}}
{{- else -}}
{{- printf "%s-%s" ($name | trunc 54 | trimSuffix "-") (sha256sum .name | trunc 8) -}}
{{- end -}}
{{- end -}}

{{- /* The Secrets of one model's backends, as `aqueduct.envFrom` takes them. */ -}}
{{- define "aqueduct.modelSecrets" -}}
{{- with .model.secret -}}
{{- dict "existing" .existing "made" (ternary (include "aqueduct.modelSecret" $) "" (not (empty .values))) | toYaml -}}
{{- end -}}
{{- end -}}

{{- define "aqueduct.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "aqueduct.labels" -}}
{{ include "aqueduct.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "aqueduct.strategy" -}}
type: {{ .Values.strategy }}
{{- if eq .Values.strategy "RollingUpdate" }}
rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
{{- end }}
{{- end -}}

{{- define "aqueduct.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "aqueduct.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "aqueduct.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* A model's values: the workers' with its own over them. */ -}}
{{- define "aqueduct.model" -}}
{{- mustMergeOverwrite (deepCopy .root.Values.worker) (deepCopy (omit .model "settings")) | toYaml -}}
{{- end -}}

{{- define "aqueduct.needsViewer" -}}
{{- $needed := .Values.monitoring.serviceMonitor.enabled -}}
{{- range $name, $model := .Values.models -}}
{{- $needed = or $needed (include "aqueduct.model" (dict "root" $ "model" $model) | fromYaml).autoscaling.enabled -}}
{{- end -}}
{{- if $needed }}true{{ end -}}
{{- end -}}

{{- define "aqueduct.viewerSecret" -}}
{{- default (printf "%s-viewer" (include "aqueduct.fullname" .)) .Values.viewerToken.existing -}}
{{- end -}}
{{- define "aqueduct.flowerSecret" -}}
{{- default (printf "%s-flower" (include "aqueduct.fullname" .)) .Values.flower.existing -}}
{{- end -}}
{{- define "aqueduct.redisSecret" -}}
{{- if .Values.redis.enabled -}}
{{- default (printf "%s-redis" (include "aqueduct.fullname" .)) .Values.redis.existing -}}
{{- else -}}
{{- default (printf "%s-redis" (include "aqueduct.fullname" .)) .Values.redis.external.existing -}}
{{- end -}}
{{- end -}}

{{- /* What a Secret of ours holds already, in Base64; else something new. An upgrade changes no password. */ -}}
{{- define "aqueduct.kept" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .name | default dict -}}
{{- get (get $found "data" | default dict) .key | default (randAlphaNum 40 | b64enc) -}}
{{- end -}}

{{- /* The names of the Secrets with variables for one role, as envFrom. */ -}}
{{- define "aqueduct.envFrom" -}}
{{- $root := .root -}}
{{- range $part := .parts }}
{{- $given := get $root.Values.secrets $part }}
{{- if $given.existing }}
- secretRef: {name: {{ $given.existing | quote }}}
{{- end }}
{{- if $given.values }}
- secretRef: {name: {{ include "aqueduct.fullname" $root }}-{{ $part }}-env}
{{- end }}
{{- end }}
{{- range $secret := .models }}
{{- if $secret.existing }}
- secretRef: {name: {{ $secret.existing | quote }}}
{{- end }}
{{- if $secret.made }}
- secretRef: {name: {{ $secret.made }}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "aqueduct.env" -}}
- {name: AQUEDUCT_CONFIG, value: /etc/aqueduct/aqueduct.yaml}
- {name: AQUEDUCT_DATA_DIR, value: /tmp/aqueduct}
- {name: PYTHONDONTWRITEBYTECODE, value: "1"}
{{- if .root.Values.redis.enabled }}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "aqueduct.redisSecret" .root }}, key: password}}
- {name: AQUEDUCT_REDIS_URL, value: "redis://:$(REDIS_PASSWORD)@{{ include "aqueduct.fullname" .root }}-redis:6379/0"}
{{- else }}
- name: AQUEDUCT_REDIS_URL
  valueFrom: {secretKeyRef: {name: {{ include "aqueduct.redisSecret" .root }}, key: url}}
{{- end }}
{{- if include "aqueduct.needsViewer" .root }}
- name: VIEWER_TOKEN_SHA256
  valueFrom: {secretKeyRef: {name: {{ include "aqueduct.viewerSecret" .root }}, key: sha256}}
{{- end }}
{{- with .env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* One pod of ours: component, values (resources, env, where it runs), args, probes as YAML, grace, ports. */ -}}
{{- define "aqueduct.pod" -}}
metadata:
  labels:
    {{- include "aqueduct.selector" . | nindent 4 }}
    {{- with .values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ include "aqueduct.checksum" (dict "root" .root "reloads" .reloads) }}
    checksum/secrets: {{ include "aqueduct.givenSecrets" .root | sha256sum }}
    {{- with .model }}
    aqueduct/model: {{ . | quote }}
    {{- end }}
    {{- with .values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ .serviceAccount | default (include "aqueduct.serviceAccount" .root) }}
  automountServiceAccountToken: {{ if .serviceAccount }}true{{ else }}false{{ end }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .grace }}
  {{- include "aqueduct.placement" . | trim | nindent 2 }}
  securityContext: {{- toYaml .root.Values.podSecurityContext | nindent 4 }}
  containers:
    - name: {{ .container }}
      image: {{ include "aqueduct.image" .root | quote }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      args: {{- toYaml .args | nindent 8 }}
      env: {{- include "aqueduct.env" (dict "root" .root "env" (concat (.env | default list) .values.env)) | nindent 8 }}
      {{- with include "aqueduct.envFrom" (dict "root" .root "parts" .parts "models" .secrets) | trim }}
      envFrom: {{- . | nindent 8 }}
      {{- end }}
      {{- with .port }}
      ports: [{name: http, containerPort: {{ . }}}]
      {{- end }}
      {{- .probes | nindent 6 }}
      resources: {{- toYaml .values.resources | nindent 8 }}
      securityContext: {{- toYaml .root.Values.containerSecurityContext | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/aqueduct, readOnly: true}
        - {name: tmp, mountPath: /tmp}
  volumes:
    - {name: config, configMap: {name: {{ include "aqueduct.fullname" .root }}}}
    - {name: tmp, emptyDir: {}}
{{- end -}}

{{- define "aqueduct.placement" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- /* Spread over hosts, where nothing else is said. */}}
{{- if .values.affinity }}
affinity: {{- toYaml .values.affinity | nindent 2 }}
{{- else }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels: {{- include "aqueduct.selector" . | nindent 14 }}

{{- end }}
{{- end -}}
