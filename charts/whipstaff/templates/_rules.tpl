{{/* What each component may do, and nothing else: the least that its start asks for and its work takes. */}}

{{- define "whipstaff.schedulerRules" -}}
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
- apiGroups: [""]
  resources: [pods/binding]
  verbs: [create]
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [namespaces, nodes, replicationcontrollers, services]
  verbs: [list, watch]
- apiGroups: [apps]
  resources: [replicasets, statefulsets]
  verbs: [list, watch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [persistentvolumeclaims, persistentvolumes]
  verbs: [list, watch, patch]
- apiGroups: [storage.k8s.io]
  resources: [csidrivers, csinodes, csistoragecapacities, storageclasses, volumeattachments]
  verbs: [list, watch]
{{ include "whipstaff.eventRules" . }}
{{ include "whipstaff.servingRules" . }}
{{- end -}}

{{- define "whipstaff.controllersRules" -}}
{{- $deployments := has "deployment" .values.names -}}
{{- $replicasets := has "replicaset" .values.names -}}
{{- $write := not .values.shadow -}}
{{- if $deployments }}
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch{{ if $write }}, update{{ end }}]
{{- if $write }}
- apiGroups: [apps]
  resources: [deployments/status]
  verbs: [update]
{{- end }}
{{- end }}
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [get, list, watch{{ if and $write $deployments }}, create, update, patch, delete{{ end }}]
{{- if and $write $replicasets }}
- apiGroups: [apps]
  resources: [replicasets/status]
  verbs: [update]
{{- end }}
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch{{ if and $write $replicasets }}, create, patch, delete{{ end }}]
{{- if and $write .values.rbac.finalizers }}
- apiGroups: [apps]
  resources:
    {{- if $deployments }}
    - deployments/finalizers
    {{- end }}
    {{- if $replicasets }}
    - replicasets/finalizers
    {{- end }}
  verbs: [update]
{{- end }}
{{- if $write }}
{{ include "whipstaff.eventRules" . }}
{{- end }}
{{ include "whipstaff.servingRules" . }}
{{- end -}}

{{/* In kube-system: who leads among the stock controllers, and objects by whose fate those are known. */}}
{{- define "whipstaff.lookoutRules" -}}
{{- $resources := list }}
{{- range .values.names }}{{ $resources = append $resources (printf "%ss" .) }}{{ end -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [kube-controller-manager]
  verbs: [get]
- apiGroups: [apps]
  resources: [{{ join ", " $resources }}]
  verbs: [create]
- apiGroups: [apps]
  resources: [{{ join ", " $resources }}]
  resourceNames: [whipstaff-controllers-probe]
  verbs: [get, delete]
{{- end -}}

{{- define "whipstaff.fleetRules" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [nodes/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, delete]
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch]
{{ include "whipstaff.eventRules" . }}
{{ include "whipstaff.servingRules" . }}
{{- end -}}

{{/*
The agent of a twin asks for a node's certificate, as `kubeadm join` does, and has a node's rights from then on. What is
left to the pod's account is the twin's end.
*/}}
{{- define "whipstaff.twinRules" -}}
- apiGroups: [certificates.k8s.io]
  resources: [certificatesigningrequests]
  verbs: [create, get, watch]
- apiGroups: [certificates.k8s.io]
  resources: [certificatesigningrequests/nodeclient]
  verbs: [create]
- apiGroups: [""]
  resources: [nodes]
  verbs: [patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, delete]
{{- end -}}
