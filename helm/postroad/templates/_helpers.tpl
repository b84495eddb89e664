{{- define "postroad.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that never change: they stand in immutable selectors. Wants root and name. */}}
{{- define "postroad.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{- define "postroad.labels" -}}
{{ include "postroad.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: postroad
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* registry/repository/name:tag; a component's own image values go before the common ones. */}}
{{- define "postroad.image" -}}
{{- $own := .values.image | default dict -}}
{{- $all := .root.Values.image -}}
{{- $registry := hasKey $own "registry" | ternary $own.registry $all.registry -}}
{{- $repository := hasKey $own "repository" | ternary $own.repository $all.repository -}}
{{- $name := $own.name | default .name -}}
{{- $path := compact (list $registry $repository $name) | join "/" -}}
{{- if $own.digest -}}
{{- printf "%s@%s" $path $own.digest -}}
{{- else -}}
{{- printf "%s:%s" $path ($own.tag | default $all.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "postroad.pullPolicy" -}}
{{- (.values.image | default dict).pullPolicy | default .root.Values.image.pullPolicy -}}
{{- end -}}

{{- define "postroad.pullSecrets" -}}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* What the restricted pod security standard asks for, and a root that nobody writes to. */}}
{{- define "postroad.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "postroad.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "postroad.listen" -}}
{{- printf "%s:%v" .root.Values.listenAddress .port -}}
{{- end -}}

{{/* Pods of a headless Service: clients balance over them. */}}
{{- define "postroad.peer" -}}
{{- printf "%s-%s-headless:%v" (include "postroad.fullname" .root) .name .port -}}
{{- end -}}

{{- define "postroad.serverTlsSecret" -}}
{{- if eq .Values.tls.mode "existingSecret" -}}
{{- required "tls.existingSecret must name a Secret with tls.crt and tls.key when tls.mode is existingSecret" .Values.tls.existingSecret -}}
{{- else -}}
{{- include "postroad.fullname" . }}-tls
{{- end -}}
{{- end -}}

{{- define "postroad.grpcSecret" -}}
{{- if eq .root.Values.grpcTLS.mode "existingSecret" -}}
{{- required "grpcTLS.existingSecret must name a Secret with ca.crt, tls.crt and tls.key when grpcTLS.mode is existingSecret" .root.Values.grpcTLS.existingSecret -}}
{{- else -}}
{{- printf "%s-%s-grpc" (include "postroad.fullname" .root) .name -}}
{{- end -}}
{{- end -}}

{{- define "postroad.grpcEnabled" -}}
{{- if ne .Values.grpcTLS.mode "disabled" }}yes{{ end -}}
{{- end -}}

{{/* POSTROAD_DATABASE_URL and what it is put together from. */}}
{{- define "postroad.databaseEnv" -}}
{{- $full := include "postroad.fullname" .root -}}
{{- $db := .root.Values.database -}}
{{- if .root.Values.postgres.enabled }}
- name: DATABASE_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .root.Values.postgres.existingSecret | default (printf "%s-postgres" $full) }}
      key: password
- name: POSTROAD_DATABASE_URL
  value: postgres://postroad:$(DATABASE_PASSWORD)@{{ $full }}-postgres:5432/postroad
{{- else if $db.existingSecret.name }}
- name: POSTROAD_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ $db.existingSecret.name }}
      key: {{ $db.existingSecret.key }}
{{- else if $db.url }}
- name: POSTROAD_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .urlSecret | default (printf "%s-database" $full) }}
      key: url
{{- else }}
{{- fail "postgres.enabled is false, so database.existingSecret.name (or database.url) must say where Postgres is" }}
{{- end }}
{{- end -}}

{{- define "postroad.encryptionEnv" -}}
{{- $secret := .root.Values.encryption.existingSecret -}}
- name: POSTROAD_ENCRYPTION_KEYS
  valueFrom:
    secretKeyRef:
      name: {{ $secret.name | default (printf "%s-encryption" (include "postroad.fullname" .root)) }}
      key: {{ if $secret.name }}{{ $secret.key }}{{ else }}keys{{ end }}
{{- end -}}

{{- define "postroad.contentStoreEnv" -}}
{{- $store := .root.Values.contentStore -}}
{{- $secret := $store.existingSecret -}}
{{- if and $store.url $secret.name }}
- name: POSTROAD_CONTENT_STORE__ACCESS_KEY_ID
  valueFrom:
    secretKeyRef:
      name: {{ $secret.name }}
      key: {{ $secret.accessKeyId }}
- name: POSTROAD_CONTENT_STORE__SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ $secret.name }}
      key: {{ $secret.secretAccessKey }}
{{- end }}
{{- end -}}

{{- define "postroad.redisEnv" -}}
{{- $full := include "postroad.fullname" .root -}}
{{- $queue := .root.Values.queue -}}
{{- if .root.Values.redis.enabled }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .root.Values.redis.existingSecret | default (printf "%s-redis" $full) }}
      key: password
- name: POSTROAD_REDIS_URL
  value: redis://:$(REDIS_PASSWORD)@{{ $full }}-redis:6379/
{{- else if $queue.existingSecret.name }}
- name: POSTROAD_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ $queue.existingSecret.name }}
      key: {{ $queue.existingSecret.key }}
{{- else if $queue.url }}
- name: POSTROAD_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ $full }}-queue
      key: url
{{- else }}
{{- fail "redis.enabled is false, so queue.existingSecret.name (or queue.url) must say where Redis is" }}
{{- end }}
{{- end -}}
