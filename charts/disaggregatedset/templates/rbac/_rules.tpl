{{/*
What the operator does in the namespaces that it watches. Server-side apply takes `patch`, and `create` where the object
doesn't exist yet. No secrets, no pods but to read why they aren't ready, no wildcards, and nothing that grants rights.
*/}}
{{- define "disaggregatedset.namespacedRules" -}}
# The sets are the users': only their status is written.
- apiGroups: [disaggregatedset.dev]
  resources: [disaggregatedsets]
  verbs: [list, watch]
- apiGroups: [disaggregatedset.dev]
  resources: [disaggregatedsets/status, rolescalers/status]
  verbs: [patch]
# What a set becomes.
- apiGroups: [disaggregatedset.dev]
  resources: [rolescalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments, controllerrevisions]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [resource.k8s.io]
  resources: [resourceclaimtemplates]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [inference.networking.k8s.io]
  resources: [inferencepools]
  verbs: [get, list, watch, create, patch, delete]
# Whether pods have their devices, and why they aren't ready.
- apiGroups: [resource.k8s.io]
  resources: [resourceclaims]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
# What is said about a set.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}

{{/* What exists only once in a cluster, and is only read. */}}
{{- define "disaggregatedset.clusterRules" -}}
# Which device classes there are.
- apiGroups: [resource.k8s.io]
  resources: [deviceclasses]
  verbs: [list, watch]
{{- if not .Values.watch.namespaces }}
# Which of the APIs that it uses are installed while it runs.
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  verbs: [list, watch]
{{- end }}
{{- end }}

{{/* Who is bound to all of that. */}}
{{- define "disaggregatedset.subjects" -}}
- kind: ServiceAccount
  name: {{ include "disaggregatedset.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}
