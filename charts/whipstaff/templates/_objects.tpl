{{/* Objects that every component has, each with a document separator of its own. The argument is a component. */}}

{{- define "whipstaff.serviceAccount" }}
{{- if .values.serviceAccount.create }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "whipstaff.account" . }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "whipstaff.labels" . | nindent 4 }}
  {{- with .values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "whipstaff.service" }}
---
apiVersion: v1
kind: Service
metadata:
  {{- include "whipstaff.metadata" . | nindent 2 }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    {{- include "whipstaff.selector" . | nindent 4 }}
  ports:
    - name: https
      port: {{ .port }}
      targetPort: https
{{- end }}

{{/* The release's, so that it goes with it; who leads writes what it says. */}}
{{- define "whipstaff.leaseObject" }}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata:
  {{- include "whipstaff.metadata" . | nindent 2 }}
{{- end }}

{{- define "whipstaff.disruptionBudget" }}
{{- if and .values.podDisruptionBudget.enabled (gt (int .replicas) 1) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "whipstaff.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "whipstaff.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{- define "whipstaff.networkPolicy" }}
{{- if .values.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "whipstaff.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "whipstaff.selector" . | nindent 6 }}
  policyTypes: [Ingress]
  ingress:
    - ports:
        - port: https
          protocol: TCP
      {{- with .values.networkPolicy.from }}
      from:
        {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end }}
{{- end }}

{{- define "whipstaff.serviceMonitor" }}
{{- if .values.serviceMonitor.enabled }}
---
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  {{- include "whipstaff.metadata" . | nindent 2 }}
    {{- with .values.serviceMonitor.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  selector:
    matchLabels:
      {{- include "whipstaff.selector" . | nindent 6 }}
  namespaceSelector:
    matchNames: [{{ .root.Release.Namespace }}]
  endpoints:
    - port: https
      scheme: https
      interval: {{ .values.serviceMonitor.interval }}
      bearerTokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
      tlsConfig:
        insecureSkipVerify: true
{{- end }}
{{- end }}

{{/* Roles and bindings from `rules` (of the cluster), `namespaced` (rules by namespace). */}}
{{- define "whipstaff.rbac" }}
{{- $ := . }}
{{- if .values.rbac.create }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ include "whipstaff.name" . }}
  labels:
    {{- include "whipstaff.labels" . | nindent 4 }}
rules:
  {{- toYaml (concat .rules .values.rbac.extraRules) | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ include "whipstaff.name" . }}
  labels:
    {{- include "whipstaff.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ include "whipstaff.name" . }}
subjects:
  - kind: ServiceAccount
    name: {{ include "whipstaff.account" . }}
    namespace: {{ .root.Release.Namespace }}
{{- range $namespace, $rules := .namespaced }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ include "whipstaff.name" $ }}
  namespace: {{ $namespace }}
  labels:
    {{- include "whipstaff.labels" $ | nindent 4 }}
rules:
  {{- toYaml $rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ include "whipstaff.name" $ }}
  namespace: {{ $namespace }}
  labels:
    {{- include "whipstaff.labels" $ | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ include "whipstaff.name" $ }}
subjects:
  - kind: ServiceAccount
    name: {{ include "whipstaff.account" $ }}
    namespace: {{ $.root.Release.Namespace }}
{{- end }}
{{- end }}
{{- end }}

{{/* Rules of who serves HTTPS and asks the API server whose requests are, as YAML lists. */}}
{{- define "whipstaff.servingRules" -}}
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
- apiGroups: [authorization.k8s.io]
  resources: [subjectaccessreviews]
  verbs: [create]
{{- end -}}

{{- define "whipstaff.clientCARule" -}}
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [extension-apiserver-authentication]
  verbs: [get]
{{- end -}}

{{- define "whipstaff.leaseRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "whipstaff.lease" . }}]
  verbs: [get, update]
{{- end -}}

{{- define "whipstaff.eventRules" -}}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
