{{/*
Every right of the operator, with what needs it. Objects of ours are watched (list, watch) and written
by server-side apply, which is `patch` and, for a new object, `create`.
*/}}

{{/* In every namespace that it works in. */}}
{{- define "sled.rules.namespaced" -}}
# what users ask for; the operator never writes a spec
- apiGroups: [sled.dev]
  resources: [sledservers, edgedrafters]
  verbs: [get, list, watch]
# conditions, replicas, assignments, rollout state
- apiGroups: [sled.dev]
  resources: [sledservers/status, edgedrafters/status]
  verbs: [patch]
# verifier replicas (SLEDServer) and drafters (EdgeDrafter, one DaemonSet per draft and class)
- apiGroups: [apps]
  resources: [statefulsets, daemonsets, controllerrevisions]
  verbs: [list, watch, create, patch, delete]
# configuration, addresses and identities of both
- apiGroups: [""]
  resources: [configmaps, services, serviceaccounts]
  verbs: [list, watch, create, patch, delete]
# certificates and device tokens: by name only, so that the operator cannot browse others' secrets
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch, delete]
# readiness of verifiers and drafters
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# a verifier that Kubernetes has told to end on a node which is gone: without this its replacement
# would wait for a person (eviction, not delete: pods that run are covered by disruption budgets)
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
# why a decision was taken, on the resource
- apiGroups: [""]
  resources: [events]
  verbs: [create]
# who may reach a verifier and a drafter
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, create, patch, delete]
# scale to zero: devices of a verifier without replicas reach the operator, which starts one
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, create, patch, delete]
# verifiers through node drains
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch, delete]
# autoscaling.mode HPA
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list, watch, create, patch, delete]
{{/* Kinds that not every cluster has are read by name; list tells whether they exist. */}}
{{- with .Values.rbac.integrations }}
{{- if .certManager }}
# tls.mode CertManager
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get, list, create, patch, delete]
{{- end }}
{{- if .gateway }}
# exposure.type Gateway
- apiGroups: [gateway.networking.k8s.io]
  resources: [grpcroutes, backendtlspolicies]
  verbs: [get, list, create, patch, delete]
{{- end }}
{{- if .serviceMonitor }}
# scrapes of verifiers by the Prometheus operator
- apiGroups: [monitoring.coreos.com]
  resources: [servicemonitors]
  verbs: [get, list, create, patch, delete]
{{- end }}
{{- if .dra }}
# gpu.allocation DRA
- apiGroups: [resource.k8s.io]
  resources: [resourceclaimtemplates]
  verbs: [get, list, create, patch, delete]
{{- end }}
{{- end }}
{{- end -}}

{{/* Nodes have no namespace. */}}
{{- define "sled.rules.cluster" -}}
# device classes are read from nodes, the assignment is a label on them (see nodeguard.yaml)
- apiGroups: [""]
  resources: [nodes]
  verbs: [list, watch, patch]
{{- end -}}

{{/* In the operator's own namespace. */}}
{{- define "sled.rules.own" -}}
# which replica is at work; the chart creates the lease
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "sled.operator" . }}]
  verbs: [get, update]
{{- end -}}
