{{- define "minerva.name" -}}
{{- if contains "minerva" .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}{{ else }}{{ printf "%s-minerva" .Release.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "minerva.selector" -}}
app.kubernetes.io/name: minerva
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "minerva.labels" -}}
{{ include "minerva.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}
