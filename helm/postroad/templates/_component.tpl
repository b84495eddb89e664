{{/*
Everything of one service. Wants a dict:
  root, name (kebab-case: binary, image and section of the configuration), values,
  ports (list of {name, port}), config (the chart's keys; values.config goes before them),
  env (text, optional), serverTls (bool), grpcPort (of services that are called), probes.
*/}}
{{- define "postroad.component" -}}
{{- $root := .root -}}
{{- $v := .values -}}
{{- $full := printf "%s-%s" (include "postroad.fullname" $root) .name -}}
{{- $grpc := include "postroad.grpcEnabled" $root -}}
{{- $runtime := dict
      "http_listen" (include "postroad.listen" (dict "root" $root "port" 9100))
      "log" $root.Values.telemetry.log
      "trace_ratio" $root.Values.telemetry.traceRatio
      "drain_seconds" $v.drainSeconds -}}
{{- if $root.Values.telemetry.otlpEndpoint -}}
{{- $_ := set $runtime "otlp_endpoint" $root.Values.telemetry.otlpEndpoint -}}
{{- end -}}
{{- if $grpc -}}
{{- $_ := set $runtime "grpc_tls" (dict "ca" "/etc/postroad/grpc-tls/ca.crt" "cert" "/etc/postroad/grpc-tls/tls.crt" "key" "/etc/postroad/grpc-tls/tls.key") -}}
{{- if eq $root.Values.grpcTLS.mode "existingSecret" -}}
{{- with $root.Values.grpcTLS.serverName }}{{- $_ := set $runtime.grpc_tls "server_name" . -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $config := mergeOverwrite (deepCopy .config) (dict "runtime" $runtime) (deepCopy ($v.config | default dict)) -}}
{{- $file := toYaml (dict .name $config) -}}
{{- $scaled := or $v.autoscaling.enabled (and $v.keda $v.keda.enabled) -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $full }}
  labels: {{- include "postroad.labels" . | nindent 4 }}
data:
  postroad.yaml: |
    {{- $file | nindent 4 }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $full }}
  labels: {{- include "postroad.labels" . | nindent 4 }}
automountServiceAccountToken: false
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $full }}
  labels: {{- include "postroad.labels" . | nindent 4 }}
spec:
  {{- if not $scaled }}
  replicas: {{ $v.replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  # A pod must stay up this long before the next one is replaced.
  minReadySeconds: 5
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: 0
      maxSurge: 1
  selector:
    matchLabels: {{- include "postroad.selector" . | nindent 6 }}
  template:
    metadata:
      labels: {{- include "postroad.labels" . | nindent 8 }}
      annotations:
        # A changed configuration replaces the pods.
        checksum/config: {{ $file | sha256sum }}
        {{- with $v.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ $full }}
      automountServiceAccountToken: {{ .apiAccess | default false }}
      # Kubernetes would set POSTROAD_* variables for every Service; a service refuses keys it does not know.
      enableServiceLinks: false
      {{- include "postroad.pullSecrets" . | nindent 6 }}
      terminationGracePeriodSeconds: {{ add $v.preStopSeconds $v.drainSeconds 10 }}
      securityContext: {{- include "postroad.podSecurity" $root.Values.runAsUser | nindent 8 }}
      dnsConfig:
        options:
          # Mail asks for names of the world: those are not tried below cluster.local first.
          - name: ndots
            value: "1"
      {{- with $v.priorityClassName | default $root.Values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with $v.nodeSelector | default $root.Values.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      tolerations:
        # Pods hold no data: replaced soon after their node is gone, not after five minutes.
        {{- range list "not-ready" "unreachable" }}
        - key: node.kubernetes.io/{{ . }}
          operator: Exists
          effect: NoExecute
          tolerationSeconds: {{ $root.Values.nodeLossSeconds }}
        {{- end }}
        {{- with $v.tolerations | default $root.Values.tolerations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $v.affinity | default $root.Values.affinity }}
      affinity: {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
        {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
        - maxSkew: 1
          topologyKey: {{ . }}
          whenUnsatisfiable: {{ eq . "kubernetes.io/hostname" | ternary $root.Values.topologySpread.acrossNodes $root.Values.topologySpread.acrossZones }}
          # A node that is gone or cordoned does not count as an empty one.
          nodeTaintsPolicy: Honor
          labelSelector:
            matchLabels: {{- include "postroad.selector" $ | nindent 14 }}
          # Each revision is spread by itself, also while a rolling update runs.
          matchLabelKeys: [pod-template-hash]
        {{- end }}
      containers:
        - name: {{ .name }}
          image: {{ include "postroad.image" . }}
          imagePullPolicy: {{ include "postroad.pullPolicy" . }}
          env:
            - name: POSTROAD_CONFIG
              value: /etc/postroad/config/postroad.yaml
            {{- with .env }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- with $v.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            {{- range .ports }}
            - name: {{ .name }}
              containerPort: {{ .port }}
            {{- end }}
            - name: health
              containerPort: 9100
          # The process answers at once; ready is another question.
          startupProbe:
            httpGet: {path: /livez, port: health}
            periodSeconds: 2
            failureThreshold: 30
          # Bound and able to answer. Does not follow mda or the database: a client that reads 451
          # or UNAVAILABLE comes back, one that finds nobody may give up.
          readinessProbe:
            httpGet: {path: /readyz, port: health}
            periodSeconds: 5
            timeoutSeconds: 3
            failureThreshold: 2
          # Follows nothing but the process: restarting it mends no database.
          livenessProbe:
            httpGet: {path: /livez, port: health}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          {{- if $v.preStopSeconds }}
          lifecycle:
            preStop:
              # New connections still come until every node and every client knows that we go.
              sleep:
                seconds: {{ $v.preStopSeconds }}
          {{- end }}
          securityContext: {{- include "postroad.containerSecurity" . | nindent 12 }}
          resources: {{- toYaml $v.resources | nindent 12 }}
          volumeMounts:
            - name: config
              mountPath: /etc/postroad/config
              readOnly: true
            {{- if $grpc }}
            - name: grpc-tls
              mountPath: /etc/postroad/grpc-tls
              readOnly: true
            {{- end }}
            {{- if .serverTls }}
            - name: tls
              mountPath: /etc/postroad/tls
              readOnly: true
            {{- end }}
            {{- with $v.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - name: config
          configMap:
            name: {{ $full }}
        {{- if $grpc }}
        - name: grpc-tls
          secret:
            secretName: {{ include "postroad.grpcSecret" . }}
            defaultMode: 0440
        {{- end }}
        {{- if .serverTls }}
        - name: tls
          secret:
            secretName: {{ include "postroad.serverTlsSecret" $root }}
            defaultMode: 0440
        {{- end }}
        {{- with $v.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- if .grpcPort }}
---
# No ClusterIP: it would pin all calls of a connection to one pod.
apiVersion: v1
kind: Service
metadata:
  name: {{ $full }}-headless
  labels: {{- include "postroad.labels" . | nindent 4 }}
spec:
  clusterIP: None
  selector: {{- include "postroad.selector" . | nindent 4 }}
  ports:
    - name: grpc
      port: {{ .grpcPort }}
      targetPort: grpc
{{- end }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $full }}
  labels: {{- include "postroad.labels" . | nindent 4 }}
spec:
  # One at a time, and a node can always be drained, also with a single replica.
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "postroad.selector" . | nindent 6 }}
{{- if and $v.keda $v.keda.enabled }}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ $full }}
  labels: {{- include "postroad.labels" . | nindent 4 }}
spec:
  scaleTargetRef:
    name: {{ $full }}
  minReplicaCount: {{ $v.autoscaling.minReplicas }}
  maxReplicaCount: {{ $v.autoscaling.maxReplicas }}
  triggers:
    - type: prometheus
      metadata:
        serverAddress: {{ required "monitoring.prometheusAddress must say where KEDA finds Prometheus" $root.Values.monitoring.prometheusAddress | quote }}
        query: {{ tpl $v.keda.query $root | quote }}
        threshold: {{ $v.keda.threshold | quote }}
    - type: cpu
      metricType: Utilization
      metadata:
        value: {{ $v.autoscaling.targetCPUUtilizationPercentage | quote }}
{{- else if $v.autoscaling.enabled }}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ $full }}
  labels: {{- include "postroad.labels" . | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ $full }}
  minReplicas: {{ $v.autoscaling.minReplicas }}
  maxReplicas: {{ $v.autoscaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ $v.autoscaling.targetCPUUtilizationPercentage }}
    {{- with $v.autoscaling.targetMemoryUtilizationPercentage }}
    - type: Resource
      resource:
        name: memory
        target:
          type: Utilization
          averageUtilization: {{ . }}
    {{- end }}
  behavior:
    scaleDown:
      # Sessions are long; pods that leave end them.
      stabilizationWindowSeconds: 300
      policies:
        - type: Pods
          value: 1
          periodSeconds: 60
{{- end }}
{{- if $root.Values.monitoring.serviceMonitors.enabled }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $full }}-metrics
  labels: {{- include "postroad.labels" . | nindent 4 }}
    postroad/metrics: "true"
spec:
  clusterIP: None
  selector: {{- include "postroad.selector" . | nindent 4 }}
  ports:
    - name: metrics
      port: 9100
      targetPort: health
{{- end }}
{{- end -}}

{{/* The Service that clients of the world reach. Wants root, name, values, ports. */}}
{{- define "postroad.mailService" -}}
{{- $s := mergeOverwrite (deepCopy .root.Values.mailService) (.values.service | default dict) -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "postroad.fullname" .root }}-{{ .name }}
  labels: {{- include "postroad.labels" . | nindent 4 }}
  {{- with $s.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $s.type }}
  {{- if ne $s.type "ClusterIP" }}
  # Local keeps the client's address, which SPF, limits and logs need; Cluster hides it.
  externalTrafficPolicy: {{ $s.externalTrafficPolicy }}
  {{- end }}
  {{- if eq $s.type "LoadBalancer" }}
  {{- with $s.loadBalancerClass }}
  loadBalancerClass: {{ . }}
  {{- end }}
  {{- with $s.loadBalancerSourceRanges }}
  loadBalancerSourceRanges: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with $s.ipFamilyPolicy }}
  ipFamilyPolicy: {{ . }}
  {{- end }}
  selector: {{- include "postroad.selector" . | nindent 4 }}
  ports:
    {{- range .ports }}
    - name: {{ .name }}
      port: {{ .service }}
      targetPort: {{ .name }}
      {{- if ne $s.type "ClusterIP" }}
      {{- with index ($s.nodePorts | default dict) .name }}
      nodePort: {{ . }}
      {{- end }}
      {{- end }}
    {{- end }}
{{- end -}}

{{/* What services with mail ports share. */}}
{{- define "postroad.listenerConfig" -}}
listener:
  tls_cert: /etc/postroad/tls/tls.crt
  tls_key: /etc/postroad/tls/tls.key
  proxy_from: {{ .root.Values.proxyProtocol.from | toJson }}
  goodbye_spread_seconds: {{ .values.goodbyeSpreadSeconds }}
{{- end -}}
