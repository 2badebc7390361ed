{{/* Prefix of the names of all objects, at most 50 characters so that suffixes fit. */}}
{{- define "sled.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sled.operator" -}}
{{ include "sled.fullname" . }}-operator
{{- end -}}

{{/* Selectors never change; labels may. */}}
{{- define "sled.selector" -}}
app.kubernetes.io/name: sled-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sled.labels" -}}
{{ include "sled.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: sled
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "sled.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "sled.operator" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* A registry in front of a name, a tag behind it unless it has one. Call with (dict "root" $ "name" "…"). */}}
{{- define "sled.workloadImage" -}}
{{- $name := .name -}}
{{- if not (or (contains "@" $name) (contains ":" (last (splitList "/" $name)))) -}}
{{- $name = printf "%s:%s" $name .root.Chart.AppVersion -}}
{{- end -}}
{{- with .root.Values.image.registry -}}{{ . }}/{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "sled.image" -}}
{{- with .Values.image.registry -}}{{ . }}/{{- end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What restricted Pod Security asks for, and a read-only root besides. */}}
{{- define "sled.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "sled.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
