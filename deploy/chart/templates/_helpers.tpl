{{/* The name of an image of ours. */}}
{{- define "aquifer.image" -}}
{{- $global := .context.Values.global -}}
{{- printf "%s/%s:%s" $global.hub .name ($global.tag | default .context.Chart.AppVersion) -}}
{{- end -}}

{{- define "aquifer.labels" -}}
app.kubernetes.io/part-of: aquifer
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Kiali, istioctl and dashboards find the control plane by these. */}}
{{- define "aquifer.control.selector" -}}
app: istiod
istio: pilot
{{- end -}}

{{- define "aquifer.control.labels" -}}
{{ include "aquifer.labels" . }}
{{ include "aquifer.control.selector" . }}
app.kubernetes.io/name: aquifer-control
istio.io/rev: default
{{- end -}}

{{- define "aquifer.agent.selector" -}}
app: ztunnel
{{- end -}}

{{/* Kiali looks for a DaemonSet of this name label. */}}
{{- define "aquifer.agent.labels" -}}
{{ include "aquifer.labels" . }}
{{ include "aquifer.agent.selector" . }}
app.kubernetes.io/name: ztunnel
{{- end -}}

{{- define "aquifer.pullSecrets" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "aquifer.rootNamespace" -}}
{{- .Values.meshConfig.rootNamespace | default .Release.Namespace -}}
{{- end -}}

{{/* The mesh's settings: what the chart knows, then what the user says. */}}
{{- define "aquifer.meshConfig" -}}
{{- $known := dict "trustDomain" .Values.global.trustDomain "rootNamespace" (include "aquifer.rootNamespace" .) "enableAutoMtls" true -}}
{{- mergeOverwrite $known (deepCopy .Values.meshConfig) | toYaml -}}
{{- end -}}

{{/* Whether an object of the cluster belongs to this release. */}}
{{- define "aquifer.isOurs" -}}
{{- $annotations := .object.metadata.annotations | default dict -}}
{{- if eq (get $annotations "meta.helm.sh/release-name") .release.Name -}}yes{{- end -}}
{{- end -}}
