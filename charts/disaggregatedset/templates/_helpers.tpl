{{/* Name of the chart. */}}
{{- define "disaggregatedset.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Name of everything; others append to it, hence not the full 63 characters. */}}
{{- define "disaggregatedset.fullname" -}}
{{- $name := include "disaggregatedset.name" . }}
{{- $default := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- default $default .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "disaggregatedset.serviceAccountName" -}}
{{- default (.Values.serviceAccount.create | ternary (include "disaggregatedset.fullname" .) "default") .Values.serviceAccount.name }}
{{- end }}

{{/* The image: by digest where there is one. */}}
{{- define "disaggregatedset.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag }}
{{- printf "%s:%s" .Values.image.repository $tag }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* What selects the operator's pods. A Deployment's selector can't change: don't add to it. */}}
{{- define "disaggregatedset.selectorLabels" -}}
app.kubernetes.io/name: {{ include "disaggregatedset.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/*
Labels of an object, as YAML. Ours win, so that nobody's label takes pods out of their selector.
  root: the root context; labels: the object's own; component: default operator
*/}}
{{- define "disaggregatedset.labels" -}}
{{- $root := .root }}
{{- $labels := include "disaggregatedset.selectorLabels" $root | fromYaml }}
{{- with .component }}{{ $_ := set $labels "app.kubernetes.io/component" . }}{{ end }}
{{- $_ := set $labels "app.kubernetes.io/version" (replace "+" "_" $root.Chart.AppVersion) }}
{{- $_ := set $labels "app.kubernetes.io/part-of" "disaggregatedset" }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" $root.Release.Service }}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" $root.Chart.Name (replace "+" "_" $root.Chart.Version)) }}
{{- toYaml (merge $labels (default dict .labels) $root.Values.commonLabels) }}
{{- end }}

{{/*
Name, namespace, labels and annotations of an object.
  root: the root context; name; namespace: none for cluster-wide objects; labels, annotations: the object's own
*/}}
{{- define "disaggregatedset.metadata" -}}
name: {{ .name }}
{{- with .namespace }}
namespace: {{ . }}
{{- end }}
labels:
  {{- include "disaggregatedset.labels" . | nindent 2 }}
{{- with merge dict (default dict .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
